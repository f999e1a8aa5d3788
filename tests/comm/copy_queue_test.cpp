// Copies that are queued a little ahead of the device: the same results, never more commands than there is room for, and
// groups that share a device in one order.
#include "comm/copy_queue.h"

#include <array>

#include "tests/comm/copy_ranks.h"
#include "tests/sanitized.h"

namespace trireme::comm {
namespace {

constexpr std::array<CopyCall, 6> kCalls{{{OpKind::all_reduce, 30'000},
                                          {OpKind::all_gather, 4000},
                                          {OpKind::reduce_scatter, 5000},
                                          {OpKind::all_reduce, 9},
                                          {OpKind::all_reduce, 8000},
                                          {OpKind::all_gather, 3000}}};

constexpr uint32_t kSeeds = unless_sanitized(10, 3);

/// Of a piece of an all-reduce: three tells, a sum, puts and fetches, and four times all peers.
constexpr size_t largest_piece(int size) { return 4 + 6 * (static_cast<size_t>(size) - 1); }

class CopyQueueTest : public ::testing::TestWithParam<int> {};

TEST_P(CopyQueueTest, IsNeverFarAheadOfTheDevice) {
  const int size = GetParam();
  for (uint32_t seed = 1; seed <= kSeeds; ++seed)
    for (const size_t lanes : {1, 2, 3})
      for (const size_t max_ahead : {1, 30}) {  // a piece at a time; one or more of them
        CopyRanks ranks({.size = size, .lanes = lanes, .max_ahead = max_ahead, .seed = seed}, kCalls);
        ASSERT_TRUE(ranks.run()) << "ranks wait for each other, with " << lanes << " lanes, seed " << seed << " and "
                                 << max_ahead << " commands";
        ranks.expect_results();
        EXPECT_LT(ranks.most_ahead(), max_ahead + largest_piece(size));
      }
}

TEST_P(CopyQueueTest, APeerThatIsAwayLeavesRoomInTheDevicesQueue) {
  const int size = GetParam();
  CopyRanks ranks({.size = size, .max_ahead = 30}, kCalls);
  EXPECT_FALSE(ranks.run(/*num_hosts=*/size - 1));  // comes back, with all that may be queued
  EXPECT_GE(ranks.most_ahead(), 5u);
  EXPECT_LT(ranks.most_ahead(), 30 + largest_piece(size));
}

TEST_P(CopyQueueTest, GroupsOfADeviceDoNotWaitForEachOther) {
  std::vector<CopyCall> calls;
  for (size_t i = 0; i < 24; ++i) calls.push_back({i % 4 == 2 ? OpKind::all_gather : OpKind::all_reduce, 1500 + 100 * i, i % 3 % 2});
  int num_waiting = 0;
  for (uint32_t seed = 1; seed <= kSeeds; ++seed)
    for (const bool ordered : {true, false}) {
      CopyRanks ranks({.size = GetParam(), .max_ahead = 30, .groups = 2, .ordered = ordered, .seed = seed}, calls);
      const bool over = ranks.run();
      if (!ordered) {
        num_waiting += over ? 0 : 1;
        continue;
      }
      ASSERT_TRUE(over) << "with seed " << seed;
      ranks.expect_results();
    }
  EXPECT_GT(num_waiting, 0) << "without turns they would have done as well";
}

INSTANTIATE_TEST_SUITE_P(Ranks, CopyQueueTest, ::testing::Values(2, 3, 4, 8));

TEST(CopyOrder, TurnsComeInTheOrderInWhichTheyWereTaken) {
  const auto order = std::make_shared<CopyOrder>();
  auto a = order->take_turn(), b = order->take_turn(), c = order->take_turn();
  EXPECT_TRUE(a->has_come());
  EXPECT_FALSE(b->has_come());
  b.reset();  // was given up
  EXPECT_FALSE(c->has_come());
  a.reset();
  EXPECT_TRUE(c->has_come());
  c.reset();
  EXPECT_TRUE(order->take_turn()->has_come());
}

}  // namespace
}  // namespace trireme::comm
