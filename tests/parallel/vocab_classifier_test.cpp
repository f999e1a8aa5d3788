// The loss over a vocabulary that lies on several ranks, against the whole classifier on one: loss,
// gradients, padding, ignored targets, chunks, bits.
#include "parallel/vocab_classifier.h"

#include <gmock/gmock.h>

#include <optional>

#include "comm/local/local_world.h"
#include "comm/solo_group.h"
#include "core/ops/classifier.h"
#include "parallel/vocab_split.h"
#include "tests/parallel/vocab_world.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kRows = 37, kWidth = 24;

/// A way to lay out a table of `rows`, of which those from `vocab` on are padding.
struct Layout {
  int64_t rows, vocab;
  std::vector<VocabRows> parts;
};

std::vector<Layout> layouts(int ranks) {
  std::vector<Layout> all{
      {131, 131, split_vocab(131, ranks)},  // nothing divides it
      {192, 130, split_vocab(192, ranks)},  // padding on the last rank; of four, on the last two
      {64, 63, split_vocab(64, ranks)},
      {ranks, ranks, split_vocab(ranks, ranks)}};
  Layout uneven{90, 50, {}};  // ranks of one row, and all of the last one's far beyond the vocabulary
  for (int r = 0; r + 2 < ranks; ++r) uneven.parts.push_back({r, 1});
  uneven.parts.push_back({ranks - 2, 60 - (ranks - 2)});
  uneven.parts.push_back({60, 30});
  all.push_back(uneven);
  return all;
}

/// Every fifth ignored; the first and the last token of each part are among them.
std::vector<int32_t> targets_of(const Layout& layout) {
  std::vector<int32_t> targets(kRows);
  for (size_t n = 0; n < targets.size(); ++n)
    targets[n] = static_cast<int32_t>(n * n * 7 % static_cast<size_t>(layout.vocab));
  for (size_t p = 0; p < layout.parts.size(); ++p)
    for (const int64_t token : {layout.parts[p].first, layout.parts[p].end() - 1})
      if (token < layout.vocab)
        targets[5 * p + (token == layout.parts[p].first ? 1 : 2)] = static_cast<int32_t>(token);
  for (size_t n = 0; n < targets.size(); n += 5) targets[n] = -1;
  return targets;
}

struct Options {
  DType dtype = DType::f32;
  float loss_scale = 0.0f;  // 0: none
  int micro_batches = 1;
  int64_t max_chunk_rows = 0;
};
struct Result {
  float loss = 0.0f, loss_without_tape = 0.0f;
  Values dh, dw;  // dh summed over the ranks
};

/// Rows of padding are large: they must not count.
Values weights_of(const Layout& layout) {
  Values w = normal_values(layout.rows * kWidth, 1, 0.5f);
  std::fill(w.begin() + layout.vocab * kWidth, w.end(), 4.0f);
  return w;
}

/// On `group`, or of the whole on this rank alone.
Result run(const Layout& layout, const Options& options, Group* group) {
  VocabRank rank(options.dtype);
  const VocabRows rows = group ? layout.parts[static_cast<size_t>(group->rank())] : VocabRows{0, layout.rows};
  Parameter w = rank.parameter("w", weights_of(layout), kWidth, rows.first, rows.count);
  const Tensor targets = rank.plain.from_host<int32_t>(targets_of(layout), {kRows});
  const auto loss_of = [&](Context& ctx, const Tensor& h) {
    return group ? vocab_classifier_loss(ctx, h, w, targets, 0.25f, layout.vocab, rows.first, *group,
                                         options.max_chunk_rows)
                 : classifier_loss(ctx, h, w, targets, 0.25f, layout.vocab);
  };
  Context ctx = rank.plain;
  if (options.loss_scale > 0.0f) ctx.loss_scale = ctx.from_host<float>(std::array{options.loss_scale}, {1});
  Result result;
  for (int i = 0; i < options.micro_batches; ++i) {
    Tape tape;
    ctx.tape = &tape;
    const Tensor h =
        tape.watch(rank.tensor(normal_values(kRows * kWidth, 2 + static_cast<uint64_t>(i)), {kRows, kWidth}));
    const Tensor loss = loss_of(ctx, h);
    result.loss = loss.item<float>();
    tape.backward(ctx, loss);
    const Tensor dh = tape.take_grad(h);
    EXPECT_EQ(dh.dtype(), options.dtype);
    result.dh = group ? rank.summed(dh, *group) : rank.values(dh);
    ctx.tape = nullptr;
    result.loss_without_tape = loss_of(ctx, h.detach()).item<float>();
  }
  result.dw = rank.values(w.grad);
  return result;
}

void expect_whole(const Layout& layout, const Options& options, double tolerance, Group& tensor) {
  SCOPED_TRACE(std::to_string(layout.vocab) + " of " + std::to_string(layout.rows) + " rows, " +
               std::string(name_of(options.dtype)));
  const Result whole = run(layout, options, nullptr), parts = run(layout, options, &tensor);
  EXPECT_NEAR(parts.loss, whole.loss, 2e-6 * std::abs(whole.loss));
  EXPECT_EQ(parts.loss_without_tape, parts.loss);
  EXPECT_GT(norm(whole.dh), 0.0);
  EXPECT_LE(relative_difference(parts.dh, whole.dh), tolerance);
  const VocabRows own = layout.parts[static_cast<size_t>(tensor.rank())];
  const Values wanted(whole.dw.begin() + own.first * kWidth, whole.dw.begin() + own.end() * kWidth);
  if (own.first >= layout.vocab)
    EXPECT_THAT(parts.dw, ::testing::Each(0.0f)) << "padding learns nothing";
  else
    EXPECT_LE(relative_difference(parts.dw, wanted), tolerance);
  Values losses(static_cast<size_t>(tensor.size()));
  Values own_loss{parts.loss};
  tensor.all_gather(wrap_host(std::span(own_loss)), wrap_host(std::span(losses)), "losses").wait();
  EXPECT_THAT(losses, ::testing::Each(parts.loss)) << "the same bits on all ranks";
}

class VocabClassifierTest : public ::testing::TestWithParam<int> {
 protected:
  void on_all_ranks(const std::function<void(Group&)>& body) {
    LocalWorld(GetParam()).run([&](Group& tensor) {
      ASSERT_EQ(tensor.size(), GetParam());
      ASSERT_GT(tensor.size(), 1);
      body(tensor);
    });
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, VocabClassifierTest, ::testing::Values(2, 3, 4));

TEST_P(VocabClassifierTest, IsTheWholeClassifiers) {
  for (const Layout& layout : layouts(GetParam()))
    on_all_ranks([&](Group& tensor) {
      expect_whole(layout, {}, 2e-6, tensor);
      expect_whole(layout, {.dtype = DType::bf16}, 8e-3, tensor);
    });
}

TEST_P(VocabClassifierTest, ScalesAndAccumulatesGradients) {
  for (const Layout& layout : layouts(GetParam()))
    on_all_ranks([&](Group& tensor) {
      expect_whole(layout, {.loss_scale = 1024.0f, .micro_batches = 3}, 2e-6, tensor);
      expect_whole(layout, {.dtype = DType::bf16, .loss_scale = 64.0f, .micro_batches = 2}, 8e-3, tensor);
    });
}

TEST_P(VocabClassifierTest, ChunksOfAnySizeGiveTheSame) {
  const Layout layout = layouts(GetParam())[0];
  for (const int64_t rows : {1, 2, 7, 12, 36, 37, 1000})
    on_all_ranks([&](Group& tensor) {
      expect_whole(layout, {.micro_batches = 2, .max_chunk_rows = rows}, 2e-6, tensor);
      expect_whole(layout, {.dtype = DType::bf16, .max_chunk_rows = rows}, 8e-3, tensor);
    });
}

TEST_P(VocabClassifierTest, TwoRunsGiveTheSameBits) {
  for (const DType dtype : {DType::f32, DType::bf16})
    on_all_ranks([&](Group& tensor) {
      const Options options{.dtype = dtype, .loss_scale = 8.0f, .micro_batches = 2, .max_chunk_rows = 8};
      const Layout layout = layouts(GetParam())[1];
      const Result first = run(layout, options, &tensor), again = run(layout, options, &tensor);
      EXPECT_EQ(first.loss, again.loss);
      EXPECT_TRUE(first.dh == again.dh);
      EXPECT_TRUE(first.dw == again.dw);
    });
}

TEST_P(VocabClassifierTest, EveryRankNamesATargetOutsideTheVocabulary) {
  on_all_ranks([](Group& tensor) {
    VocabRank rank;
    const int64_t first = tensor.rank() * 8;
    Parameter w = rank.parameter("w", Values(8 * kWidth), kWidth, 0, 8);
    const Tensor h = rank.tensor(Values(3 * kWidth), {3, kWidth});
    for (const int32_t wrong : {-2, 15}) {
      const Tensor targets = rank.plain.from_host<int32_t>(std::array{0, -1, wrong}, {3});
      try {
        vocab_classifier_loss(rank.plain, h, w, targets, 1.0f, 15, first, tensor);
        ADD_FAILURE() << "accepted";
      } catch (const ConfigError& e) {
        EXPECT_THAT(e.what(), HasSubstr("target " + std::to_string(wrong) +
                                        " in row 2 of the micro-batch is outside the vocabulary of 15"));
      }
    }
  });
}

// A probability of 1 - 1e-13 on one rank, and logits beyond what e^x can hold on both.
TEST_P(VocabClassifierTest, LargeLogitsOverflowOnNoRank) {
  on_all_ranks([](Group& tensor) {
    VocabRank rank;
    const int64_t size = tensor.size();
    Parameter w = rank.parameter("w", {tensor.rank() == 0 ? 500.0f : 470.0f, -500.0f}, 1, 0, 2);
    const Tensor h = rank.tensor({1.0f, 1.0f}, {2, 1});
    const Tensor targets =
        rank.plain.from_host<int32_t>(std::array{0, static_cast<int32_t>(2 * size - 2)}, {2});
    const Tensor loss =
        vocab_classifier_loss(rank.plain, h, w, targets, 1.0f, 2 * size, 2 * tensor.rank(), tensor);
    EXPECT_NEAR(loss.item<float>(), 30.0f, 1e-4f);
  });
}

TEST_P(VocabClassifierTest, NotANumberOnOneRankShowsOnAll) {
  on_all_ranks([](Group& tensor) {
    VocabRank rank;
    Values own(2 * kWidth);
    if (tensor.rank() == 1) own[3] = std::nanf("");
    Parameter w = rank.parameter("w", own, kWidth, 0, 2);
    const Tensor h = rank.tensor(Values(kWidth, 1.0f), {1, kWidth});
    const Tensor targets = rank.plain.from_host<int32_t>(std::array{0}, {1});
    const Tensor loss =
        vocab_classifier_loss(rank.plain, h, w, targets, 1.0f, 2 * tensor.size(), 2 * tensor.rank(), tensor);
    EXPECT_TRUE(std::isnan(loss.item<float>()));
  });
}

TEST(VocabClassifier, OneRankIsTheWhole) {
  SoloGroup tensor;
  for (const int64_t chunk : {0, 5}) {
    const Layout layout{131, 125, {{0, 131}}};
    expect_whole(layout, {.micro_batches = 2, .max_chunk_rows = chunk}, 2e-6, tensor);
  }
}

}  // namespace
}  // namespace trireme
