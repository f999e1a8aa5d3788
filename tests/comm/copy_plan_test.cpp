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
