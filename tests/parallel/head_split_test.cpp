// Which heads a tensor rank has: each head once, queries with their keys, and refusals that say what works.
#include "parallel/layers/head_split.h"

#include <gmock/gmock.h>

#include "core/error.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(HeadSplit, EveryHeadOnceWithItsKeys) {
  for (const auto& [heads, kv_heads] :
       std::vector<std::pair<int64_t, int64_t>>{{6, 6}, {6, 3}, {6, 2}, {12, 4}, {7, 1}, {8, 8}})
    for (int64_t ranks = 1; ranks <= heads; ++ranks) {
      std::vector<int> owners(static_cast<size_t>(heads)), kv_primaries(static_cast<size_t>(kv_heads));
      const int64_t queries = heads / kv_heads;
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const HeadSplit split = split_heads(heads, kv_heads, ranks, rank);
        EXPECT_GT(split.q.size(), 0) << heads << ' ' << kv_heads << ' ' << ranks;
        EXPECT_EQ(split.q.size() % split.kv.size(), 0);
        for (int64_t q = split.q.begin; q < split.q.end; ++q) {
          ++owners[static_cast<size_t>(q)];
          EXPECT_GE(q / queries, split.kv.begin);
          EXPECT_LT(q / queries, split.kv.end);
        }
        for (int64_t kv = split.kv.begin; kv < split.kv.end; ++kv)
          kv_primaries[static_cast<size_t>(kv)] += split.kv_primary ? 1 : 0;
        EXPECT_EQ(split.kv_primary, split.kv_first_rank == rank);
        EXPECT_EQ(split.kv_shared, kv_heads < ranks);
      }
      for (int n : owners) EXPECT_EQ(n, 1) << heads << ' ' << kv_heads << ' ' << ranks;
      for (int n : kv_primaries) EXPECT_EQ(n, 1) << heads << ' ' << kv_heads << ' ' << ranks;
    }
}

TEST(HeadSplit, MoreRanksThanHeadsAreRefused) {
  EXPECT_THAT([] { split_heads(6, 2, 7, 0); },
              ThrowsMessage<ConfigError>(HasSubstr("set parallel.tensor to 6 or less")));
}

TEST(HeadSplit, RowsOfTheFusedProduct) {
  // 6 query heads of 8, 2 of keys and values; rank 1 of 4 shares the first key head with rank 0.
  const Placement p = qkv_placement(split_heads(6, 2, 4, 1), 6, 2, 8);
  EXPECT_EQ(p.global, 80);
  ASSERT_EQ(p.ranges.size(), 3u);
  EXPECT_EQ(p.ranges[0].begin, 16);
  EXPECT_EQ(p.ranges[0].end, 24);
  EXPECT_EQ(p.ranges[1].begin, 48);
  EXPECT_EQ(p.ranges[2].begin, 64);
  EXPECT_TRUE(p.ranges[0].primary);
  EXPECT_FALSE(p.ranges[1].primary);
  EXPECT_TRUE(p.ranges[2].shared);
  EXPECT_EQ(p.local(), 24);
}

TEST(EvenSplit, BlocksAreAsLargeAsLeavesEachPartSome) {
  EXPECT_EQ(split_in_blocks(3072, 2, 1).begin, 1536);
  EXPECT_EQ(split_in_blocks(3072, 5, 0).end, 640);  // 48 blocks of 64: 10, 10, 10, 9, 9
  EXPECT_EQ(split_in_blocks(190, 4, 3).end, 190);
  for (int64_t n : {5, 64, 190, 1000})
    for (int64_t parts = 1; parts <= 5; ++parts) {
      int64_t at = 0;
      for (int64_t i = 0; i < parts; ++i) {
        const Part part = split_in_blocks(n, parts, i);
        EXPECT_EQ(part.begin, at);
        EXPECT_GT(part.size(), 0);
        at = part.end;
      }
      EXPECT_EQ(at, n);
    }
}

}  // namespace
}  // namespace trireme
