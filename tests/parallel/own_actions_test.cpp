// Receives are posted when all that is missing is the peers' work.
#include "parallel/schedule/own_actions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace trireme {
namespace {

using ::testing::ElementsAre;

TEST(OwnActionsTest, AreThoseThatThePeerWaitsFor) {
  // Rank 0: F0 F1 B0 F2 B1 ..., rank 1: F0 B0 F1 B1 ...: each gradient waits for the forward that it belongs to.
  const Schedule s = make_schedule("1f1b", 2, 1, 4);
  EXPECT_THAT(own_actions_before(s, 0, 1, Direction::backward), ElementsAre(1, 2, 4, 6));
  // Activations wait for gradients of this rank only where rank 0 takes those first.
  EXPECT_THAT(own_actions_before(s, 1, 0, Direction::forward), ElementsAre(0, 0, 2, 4));
  // All forward passes come first: the last stage's first gradient waits for all of them.
  const Schedule gpipe = make_schedule("gpipe", 2, 1, 3);
  EXPECT_THAT(own_actions_before(gpipe, 0, 1, Direction::backward), ElementsAre(3, 3, 3));
}

TEST(OwnActionsTest, AreBeforeTheActionThatTakesTheMessage) {
  for (const std::string& name : schedule_names())
    for (const auto& [ranks, micro_batches] : {std::pair(2, 8), {3, 2}, {4, 8}, {4, 3}}) {
      const int64_t chunks = chunks_of_schedule(name) == 0 ? 3 : chunks_of_schedule(name);
      const Schedule s = make_schedule(name, ranks, chunks, micro_batches);
      for (int maker = 0; maker < s.num_stages(); ++maker)
        for (const Direction direction : {Direction::forward, Direction::backward}) {
          if (!s.sends(maker, direction)) continue;
          const int taker = maker + (direction == Direction::forward ? 1 : -1);
          const int rank = s.rank_of_stage[static_cast<size_t>(taker)];
          const auto needed = own_actions_before(s, rank, maker, direction);
          const auto order = s.channel_order(maker, direction);
          ASSERT_EQ(needed.size(), static_cast<size_t>(micro_batches));
          EXPECT_TRUE(std::ranges::is_sorted(needed)) << name;
          const auto& actions = s.ranks[static_cast<size_t>(rank)];
          for (size_t i = 0; i < order.size(); ++i) {
            const auto takes = std::ranges::find_if(actions, [&](const Action& a) {
              return a.stage == taker && a.micro_batch == order[i] &&
                     (direction == Direction::forward ? a.is_forward() : a.makes_input_gradient());
            });
            EXPECT_LE(needed[i], static_cast<size_t>(takes - actions.begin())) << name << " stage " << taker;
          }
        }
    }
}

}  // namespace
}  // namespace trireme
