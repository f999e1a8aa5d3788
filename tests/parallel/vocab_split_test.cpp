// Which rows each rank gets: all of them once, balanced, in units that products like.
#include "parallel/vocab_split.h"

#include <gmock/gmock.h>

#include "core/error.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

TEST(VocabSplitTest, EachRowHasOneRankAndEachRankHasRows) {
  for (int64_t rows = 1; rows < 700; ++rows)
    for (int64_t ranks = 1; ranks <= std::min<int64_t>(rows, 16); ++ranks) {
      const auto parts = split_vocab(rows, ranks);
      ASSERT_EQ(static_cast<int64_t>(parts.size()), ranks);
      int64_t next = 0, most = 0;
      for (const VocabRows& part : parts) {
        ASSERT_EQ(part.first, next) << rows << " rows, " << ranks << " ranks";
        ASSERT_GT(part.count, 0) << rows << " rows, " << ranks << " ranks";
        most = std::max(most, part.count);
        next = part.end();
      }
      ASSERT_EQ(next, rows);
      // A sixteenth above the mean, or one row where that is less than a row.
      ASSERT_LE(most, std::max((rows * 17) / (ranks * 16), (rows + ranks - 1) / ranks))
          << rows << " rows, " << ranks << " ranks";
    }
}

TEST(VocabSplitTest, UnitsAreAsLargeAsBalanceAllows) {
  EXPECT_EQ(split_vocab(50304, 4),
            (std::vector<VocabRows>{{0, 12608}, {12608, 12608}, {25216, 12544}, {37760, 12544}}));
  EXPECT_EQ(split_vocab(50257, 2), (std::vector<VocabRows>{{0, 25152}, {25152, 25105}}));
  EXPECT_EQ(split_vocab(128, 2), (std::vector<VocabRows>{{0, 64}, {64, 64}}));
  EXPECT_EQ(split_vocab(96, 3), (std::vector<VocabRows>{{0, 32}, {32, 32}, {64, 32}}));
  EXPECT_EQ(split_vocab(7, 3), (std::vector<VocabRows>{{0, 3}, {3, 2}, {5, 2}}));
  EXPECT_EQ(split_vocab(131, 1), (std::vector<VocabRows>{{0, 131}}));
}

TEST(VocabSplitTest, SaysHowManyRanksWouldDo) {
  try {
    split_vocab(5, 8);
    FAIL() << "accepted";
  } catch (const ConfigError& e) {
    EXPECT_THAT(e.what(), HasSubstr("parallel.tensor = 8"));
    EXPECT_THAT(e.what(), HasSubstr("set parallel.tensor to 5 or less"));
  }
}

}  // namespace
}  // namespace trireme
