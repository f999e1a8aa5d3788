// The cut of samples over context ranks: every token has one owner, work is balanced, tokens and refusals.
#include "parallel/context_chunks.h"

#include <gmock/gmock.h>

#include <numeric>

#include "core/error.h"
#include "tests/refusal.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ContextChunksTest, EveryTokenHasOneOwner) {
  const std::vector<std::pair<int64_t, int64_t>> cuts{{24, 1}, {25, 1}, {24, 2}, {24, 3},
                                                      {24, 4}, {6, 3},  {1, 1}};
  for (const auto& [tokens, ranks] : cuts) {
    std::vector<int> owners(static_cast<size_t>(tokens));
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const ContextChunks chunks{tokens, ranks, rank};
      ASSERT_EQ(chunks.local_tokens() * ranks, tokens);
      for (int64_t t = 0; t < chunks.local_tokens(); ++t) {
        ++owners[static_cast<size_t>(chunks.position(t))];
        EXPECT_TRUE(t == 0 ||
                    chunks.position(t) > chunks.position(t - 1));  // a causal mask of local tokens is right
        EXPECT_EQ(chunks.owner_of(chunks.position(t)), rank);
        EXPECT_EQ(chunks.num_before(chunks.position(t)), t);
      }
    }
    EXPECT_THAT(owners, testing::Each(1)) << tokens << " tokens, " << ranks << " ranks";
  }
}

TEST(ContextChunksTest, RanksSeeAsManyKeys) {
  for (const int64_t ranks : {2, 3, 8}) {
    std::vector<int64_t> seen;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const ContextChunks chunks{48, ranks, rank};
      int64_t keys = 0;
      for (int64_t t = 0; t < chunks.local_tokens(); ++t) keys += chunks.position(t) + 1;
      seen.push_back(keys);
    }
    EXPECT_THAT(seen, testing::Each(48 * 49 / 2 / ranks));
  }
}

TEST(ContextChunksTest, TakesTokensOfWholeSamples) {
  std::vector<int32_t> samples(24);  // two of twelve
  std::iota(samples.begin(), samples.end(), 0);
  EXPECT_THAT(take_chunks(samples, {12, 3, 0}), ElementsAre(0, 1, 10, 11, 12, 13, 22, 23));
  EXPECT_THAT(take_chunks(samples, {12, 3, 2}), ElementsAre(4, 5, 6, 7, 16, 17, 18, 19));
  EXPECT_EQ(take_chunks(samples, {12, 1, 0}), samples);
  EXPECT_THROW(take_chunks(samples, {10, 1, 0}), InternalError);
}

std::string refusal(int64_t tokens, int64_t ranks) {
  return refusal_of([&] { check_context_chunks(tokens, ranks); });
}

TEST(ContextChunksTest, SaysWhichNumbersWork) {
  EXPECT_EQ(refusal(24, 3), "accepted");
  EXPECT_EQ(refusal(25, 1), "accepted");
  EXPECT_EQ(refusal(1000, 3),
            "batch.sequence = 1000 does not divide into 2 * parallel.context = 6 chunks; set batch.sequence "
            "to 996 or "
            "1002, or parallel.context to 2 or 4");
  const ContextLimits limits{1000, [](int64_t ranks) { return ranks % 2 == 1; }};
  EXPECT_THAT(refusal_of([&] { check_context_chunks(1000, 3, limits); }),
              HasSubstr("chunks; set batch.sequence to 996, or parallel.context to 1 or 5"));
  EXPECT_THAT(refusal_of([&] { check_context_chunks(5, 3, {5, [](int64_t) { return false; }}); }),
              HasSubstr("chunks; start another number of ranks"));
  EXPECT_THAT(refusal(8, 16), HasSubstr("set batch.sequence to 32, or parallel.context to 4"));
  EXPECT_THAT(refusal(7, 2), HasSubstr("set batch.sequence to 4 or 8, or parallel.context to 1"));
  EXPECT_THAT(refusal(8, 0), HasSubstr("parallel.context = 0 must be 1 or more"));
}

}  // namespace
}  // namespace trireme
