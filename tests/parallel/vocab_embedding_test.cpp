// The embedding of a table whose rows lie on several ranks: summed over them it is that of the whole table,
// bit for bit.
#include <gmock/gmock.h>

#include "comm/local/local_world.h"
#include "core/ops/embedding.h"
#include "parallel/vocab_split.h"
#include "tests/parallel/vocab_world.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSamples = 3, kLength = 11, kWidth = 20, kPositions = 30;

std::vector<int32_t> tokens_below(int64_t vocab) {
  std::vector<int32_t> tokens(kSamples * kLength);
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<int32_t>(i * i * 5 % static_cast<size_t>(vocab));
  return tokens;
}

struct Result {
  Values y, dw, dpositions;
};

/// Forward and backward twice, so that gradients add up. With a group, y is summed over it and rank 0 adds
/// the positions.
Result run(VocabRank& rank, int64_t vocab, VocabRows rows, TokenPositions at, Group* group) {
  Parameter w = rank.parameter("w", normal_values(vocab * kWidth, 1), kWidth, rows.first, rows.count);
  Parameter positions =
      rank.parameter("positions", normal_values(kPositions * kWidth, 2), kWidth, 0, kPositions);
  const Tensor tokens = rank.plain.from_host<int32_t>(tokens_below(vocab), {kSamples, kLength});
  Result result;
  for (int i = 0; i < 2; ++i) {
    Tape tape;
    Context ctx = rank.plain;
    ctx.tape = &tape;
    const TableRows table = group ? TableRows{rows.first, vocab} : TableRows{};
    const Tensor y = embedding(ctx, tokens, w, &positions, at, table, !group || group->rank() == 0);
    result.y = group ? rank.summed(y, *group) : rank.values(y);
    const Tensor dy = rank.tensor(normal_values(y.numel(), 4), y.shape());
    tape.backward(ctx, std::span(&y, 1), {dy});
  }
  result.dw = rank.values(w.grad);
  result.dpositions = rank.values(positions.grad);
  return result;
}

class VocabEmbeddingTest : public ::testing::TestWithParam<int> {};

TEST_P(VocabEmbeddingTest, SummedOverTheRanksIsThatOfTheWholeTable) {
  const int ranks = GetParam();
  for (const int64_t vocab : {70, 131, 5})
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const TokenPositions at :
           {TokenPositions(0), TokenPositions(7), TokenPositions(20, 5, 3), TokenPositions(2, 0, 19)})
        LocalWorld(ranks).run([&](Group& tensor) {
          ASSERT_EQ(tensor.size(), ranks);
          VocabRank rank(dtype);
          const VocabRows rows = split_vocab(vocab, ranks)[static_cast<size_t>(tensor.rank())];
          const Result whole = run(rank, vocab, {0, vocab}, at, nullptr),
                       part = run(rank, vocab, rows, at, &tensor);
          Values rounded = part.y;
          if (dtype == DType::bf16)
            for (float& y : rounded) y = static_cast<float>(bf16(y));
          EXPECT_TRUE(rounded == whole.y) << vocab << " " << name_of(dtype);
          EXPECT_TRUE(part.dw ==
                      Values(whole.dw.begin() + rows.first * kWidth, whole.dw.begin() + rows.end() * kWidth));
          EXPECT_TRUE(part.dpositions == whole.dpositions) << "on each rank, whoever added them";
          EXPECT_GT(norm(whole.dpositions), 0.0);
        });
}
INSTANTIATE_TEST_SUITE_P(Ranks, VocabEmbeddingTest, ::testing::Values(2, 3, 4));

TEST(VocabEmbedding, TwoRunsArePositionsOfTheirOwn) {
  VocabRank rank;
  Values table(kPositions);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(i);
  Parameter w = rank.parameter("w", Values(4), 1, 0, 4),
            positions = rank.parameter("positions", table, 1, 0, kPositions);
  const Tensor tokens = rank.plain.from_host<int32_t>(std::vector<int32_t>(8), {2, 4});
  EXPECT_THAT(rank.values(embedding(rank.plain, tokens, w, &positions, {9, 3, 1})),
              ::testing::ElementsAre(9, 10, 11, 1, 9, 10, 11, 1));
  EXPECT_THAT(rank.values(embedding(rank.plain, tokens, w, &positions, 5)),
              ::testing::ElementsAre(5, 6, 7, 8, 5, 6, 7, 8));
}

TEST(VocabEmbedding, WrongTokensAndPositionsAreNoticed) {
  VocabRank rank;
  Parameter w = rank.parameter("w", Values(8), 2, 0, 4),
            positions = rank.parameter("positions", Values(20), 2, 0, 10);
  const auto message = [&](std::vector<int32_t> tokens, TokenPositions at, TableRows rows) -> std::string {
    const auto length = static_cast<int64_t>(tokens.size());
    try {
      embedding(rank.plain, rank.plain.from_host<int32_t>(tokens, {1, length}), w, &positions, at, rows);
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message({0, 3, 4, 19}, 0, {4, 20}), "accepted");
  EXPECT_THAT(
      message({0, 3, 20}, 0, {4, 20}),
      HasSubstr("token 20 at sample 0, position 2 of the micro-batch is outside the vocabulary of 20"));
  EXPECT_THAT(message({-1}, 0, {4, 20}), HasSubstr("token -1"));
  EXPECT_THAT(message({0, 4}, 0, {}),
              HasSubstr("token 4 at sample 0, position 1 of the micro-batch is outside the vocabulary of 4"));
  EXPECT_THAT(message({0, 0, 0, 0}, {0, 2, 9}, {}),
              HasSubstr("positions 9 to 10 were asked for, the model has 10"));
  EXPECT_THROW(message({0, 0, 0, 0}, {3, 2, 4}, {}), InternalError) << "position 4 twice";
}

}  // namespace
}  // namespace trireme
