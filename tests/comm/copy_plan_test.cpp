// Plans of copies, run on host memory by ranks that take their steps in any order that is allowed.
#include "comm/copy_plan.h"

#include <array>

#include "tests/comm/copy_ranks.h"
#include "tests/sanitized.h"

namespace trireme::comm {
namespace {

class CopyPlanTest : public ::testing::TestWithParam<int> {};

// Pieces are a part of kBuffer: some calls need many, some only one, and some parts are cut off or empty.
TEST_P(CopyPlanTest, GivesTheSameInAnyOrder) {
  const int size = GetParam();
  constexpr std::array<CopyCall, 9> kCalls{{{OpKind::all_reduce, 9001},
                                        {OpKind::all_gather, 700},
                                        {OpKind::reduce_scatter, 1300},
                                        {OpKind::reduce_scatter, 5},
                                        {OpKind::all_reduce, 9},
                                        {OpKind::all_gather, 3},
                                        {OpKind::all_gather, 2100},
                                        {OpKind::all_reduce, 4096},
                                        {OpKind::reduce_scatter, 777}}};
  constexpr uint32_t kSeeds = unless_sanitized(20, 4);
  for (uint32_t seed = 1; seed <= kSeeds; ++seed)
    for (const size_t lanes : {1, 2, 3}) {
      CopyRanks ranks({.size = size, .lanes = lanes, .seed = seed}, kCalls);
      ASSERT_TRUE(ranks.run()) << "ranks wait for each other, with " << lanes << " lanes and seed " << seed;
      ranks.expect_results();
    }
}

INSTANTIATE_TEST_SUITE_P(Ranks, CopyPlanTest, ::testing::Values(2, 3, 4, 5, 8));

TEST_P(CopyPlanTest, NumbersMayWrap) {
  const std::vector<CopyCall> calls(5, {OpKind::all_reduce, 4096});
  for (uint32_t seed = 1; seed <= 3; ++seed) {
    CopyRanks ranks({.size = GetParam(), .skipped = 0xfffffffc, .seed = seed}, calls);
    ASSERT_TRUE(ranks.run());
    ranks.expect_results();
  }
}

TEST(CopyPlan, SettlesWhatIsNotWaitedForYet) {
  using enum CopyStep::Word;
  using Awaited = std::vector<std::pair<CopyStep::Word, uint32_t>>;
  CopyPlanner planner(0, 2, 2, 4096);  // pieces of 1 KiB
  const auto settled = [&] {
    Awaited awaited;
    for (const CopyStep& step : planner.settle()) {
      EXPECT_EQ(step.kind, CopyStep::Kind::await);
      awaited.emplace_back(step.word, step.number);
    }
    return awaited;
  };
  EXPECT_EQ(settled(), Awaited());
  planner.plan(split_evenly(5 << 10, 2, 16));  // 1, 2 and 3
  EXPECT_EQ(settled(), (Awaited{{fetched, 3}, {fetched, 2}}));
  EXPECT_EQ(settled(), Awaited());
  EXPECT_EQ(planner.skip(10), 3u);
  planner.plan({OpKind::reduce_scatter, 100, 200});
  planner.plan({OpKind::all_gather, 100, 200});
  EXPECT_EQ(settled(), (Awaited{{fetched, 15}})) << "which is told after all that is summed";
  EXPECT_EQ(planner.last_number(), 15u);
}

TEST(CopyPlan, IsTheSameWhateverCameBefore) {
  CopyPlanner fresh(1, 3, 2, 6144), used(1, 3, 2, 6144);
  used.plan(split_evenly(7 << 10, 3, 16));
  used.settle();
  const CopyArray array{OpKind::reduce_scatter, 3000, 9000};
  const std::vector<CopyStep> a = fresh.plan(array), b = used.plan(array);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].lane, b[i].lane);
    EXPECT_EQ(a[i].to.offset, b[i].to.offset);
    EXPECT_EQ(a[i].received.offset, b[i].received.offset);
  }
}

TEST(CopyPlan, PutsAPieceBeforeTheOneAheadIsFetched) {
  CopyPlanner planner(0, 2, 2, 4096);  // pieces of 1 KiB
  std::vector<std::pair<CopyStep::Word, uint32_t>> told;
  for (const CopyStep& step : planner.plan(split_evenly(6 << 10, 2, 16)))
    if (step.kind == CopyStep::Kind::tell) told.emplace_back(step.word, step.number);
  using enum CopyStep::Word;
  const std::vector<std::pair<CopyStep::Word, uint32_t>> wanted{{pushed, 1}, {summed, 1},  {pushed, 2},
                                                                {summed, 2}, {fetched, 1}, {pushed, 3},
                                                                {summed, 3}, {fetched, 2}, {fetched, 3}};
  EXPECT_EQ(told, wanted);
}

}  // namespace
}  // namespace trireme::comm
