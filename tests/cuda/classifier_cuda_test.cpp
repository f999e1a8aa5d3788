// The classifier of a GPU against the host's: vocabularies that nothing divides, rows longer than shared memory, padding,
// ignored targets, chunks of any size, and errors that must show.
#include "core/ops/classifier.h"

#include <array>
#include <limits>

#include "tests/core/classifier_parts.h"
#include "tests/cuda/cuda_fixture.h"

namespace trireme {
namespace {

struct Sizes {
  int64_t rows, channels, padded, vocab;
};

struct Result {
  double loss;
  HostMatrix dh, dw;
};

class ClassifierCuda : public CudaTest {
 protected:
  /// Every seventh ignored; the first and the last token, which begin and end a row, are among them.
  static std::vector<int32_t> targets_of(const Sizes& s) {
    std::vector<int32_t> targets(static_cast<size_t>(s.rows));
    for (int64_t n = 0; n < s.rows; ++n) targets[static_cast<size_t>(n)] = static_cast<int32_t>(n * 7919 % s.vocab);
    for (size_t n = 3; n < targets.size(); n += 7) targets[n] = -1;
    targets.back() = static_cast<int32_t>(s.vocab - 1);
    return targets;
  }
  /// Logits are to be about 1, where rounding them to bf16 changes probabilities by less than a hundredth.
  static HostMatrix hidden_of(const Sizes& s, DType dtype) {
    HostMatrix h = random_matrix(s.rows, s.channels, 1, dtype);
    for (double& x : h.v) x *= 0.25;
    return h;
  }
  /// Rows of the padding are large: they must not count.
  static HostMatrix weights_of(const Sizes& s, DType dtype) {
    HostMatrix w = random_matrix(s.padded, s.channels, 2, dtype);
    for (int64_t v = s.vocab; v < s.padded; ++v)
      for (int64_t c = 0; c < s.channels; ++c) w.at(v, c) = 8.0;
    return w;
  }

  /// By the definition, in double.
  static Result reference(const Sizes& s, DType dtype, double scale, double loss_scale) {
    const HostMatrix h = hidden_of(s, dtype), w = weights_of(s, dtype);
    const std::vector<int32_t> targets = targets_of(s);
    const HostMatrix logits = product_of(h, false, w, true);
    HostMatrix gradient(s.rows, s.padded);
    double loss = 0.0;
    for (int64_t n = 0; n < s.rows; ++n) {
      const int32_t target = targets[static_cast<size_t>(n)];
      if (target < 0) continue;
      double max = -1e300, sum = 0.0;
      for (int64_t v = 0; v < s.vocab; ++v) max = std::max(max, logits.at(n, v));
      for (int64_t v = 0; v < s.vocab; ++v) sum += std::exp(logits.at(n, v) - max);
      loss += std::log(sum) + max - logits.at(n, target);
      for (int64_t v = 0; v < s.vocab; ++v)
        gradient.at(n, v) = scale * loss_scale * (std::exp(logits.at(n, v) - max) / sum - (v == target ? 1.0 : 0.0));
    }
    return {scale * loss, product_of(gradient, false, w, false), product_of(gradient, true, h, false)};
  }

  ClassifierArgs args_for(const Sizes& s, DType dtype, float scale, float loss_scale) {
    ClassifierArgs args;
    args.h = to_device(hidden_of(s, dtype), dtype);
    args.w = to_device(weights_of(s, dtype), dtype);
    args.targets = ctx_.from_host<int32_t>(targets_of(s), {s.rows});
    args.vocab = s.vocab;
    args.scale = scale;
    if (loss_scale != 1.0f) args.loss_scale = ctx_.from_host<float>(std::array{loss_scale}, {1});
    args.loss = ctx_.empty({1});
    args.dh = ctx_.empty({s.rows, s.channels}, dtype);
    args.dw = ctx_.empty({s.padded, s.channels});
    return args;
  }
  double loss_of(const ClassifierArgs& args) { return to_host(args.loss).v[0]; }

  void check(const Sizes& s, DType dtype, double tolerance) {
    SCOPED_TRACE(std::string(name_of(dtype)) + ", " + std::to_string(s.rows) + " rows, vocabulary " +
                 std::to_string(s.vocab) + " of " + std::to_string(s.padded));
    const double scale = 0.25, loss_scale = 64.0;
    const Result wanted = reference(s, dtype, scale, loss_scale);
    ClassifierArgs args = args_for(s, dtype, static_cast<float>(scale), static_cast<float>(loss_scale));
    ctx_.kernel<ClassifierForward>()(ctx_, args);
    EXPECT_NEAR(loss_of(args), wanted.loss, tolerance * std::abs(wanted.loss));
    EXPECT_LE(relative_difference(to_host(args.dh), wanted.dh), tolerance);
    const HostMatrix dw = to_host(args.dw);
    EXPECT_LE(relative_difference(dw, wanted.dw), tolerance);
    for (int64_t v = s.vocab; v < s.padded; ++v)
      for (int64_t c = 0; c < s.channels; ++c) ASSERT_EQ(dw.at(v, c), 0.0) << "padding learns nothing";
    args.dh = args.dw = Tensor();
    ctx_.kernel<ClassifierForward>()(ctx_, args);
    EXPECT_NEAR(loss_of(args), wanted.loss, tolerance * std::abs(wanted.loss)) << "the loss alone";
  }
};

TEST_F(ClassifierCuda, IsTheHostsForAnySize) {
  const std::vector<Sizes> sizes{{53, 24, 75, 70}, {53, 24, 128, 113}, {130, 64, 1024, 1024}, {64, 32, 5000, 4999}, {3, 8, 16, 1}};
  for (const Sizes& s : sizes) {
    check(s, DType::f32, 2e-5);
    check(s, DType::bf16, 2e-2);
    check(s, DType::f16, 4e-3);
  }
}

TEST_F(ClassifierCuda, LongRows) {
  // Of f32, 50304 columns are more than half of shared memory, and 128256 of either type more than all of it.
  check({6, 16, 50304, 50257}, DType::f32, 2e-5);
  check({6, 16, 50304, 50257}, DType::bf16, 2e-2);
  check({6, 16, 128256, 128256}, DType::f32, 2e-5);
  check({6, 16, 128256, 128000}, DType::bf16, 2e-2);
  check({5, 16, 70001, 70001}, DType::bf16, 2e-2);
}

TEST_F(ClassifierCuda, MoreLongRowsThanMultiprocessors) {
  // Blocks that stay for several rows fill each buffer again, and meet ignored rows on the way.
  check({300, 16, 50304, 50257}, DType::bf16, 2e-2);
  check({300, 16, 32768, 32768}, DType::f16, 4e-3);
  check({700, 8, 25600, 25599}, DType::bf16, 2e-2);
}

TEST_F(ClassifierCuda, ALongRowsTargetOutsideTheVocabularyShows) {
  const Sizes s{16, 8, 50304, 50257};
  for (const int32_t wrong : {50257, 50303, -2}) {
    ClassifierArgs args = args_for(s, DType::bf16, 1.0f, 1.0f);
    std::vector<int32_t> targets = targets_of(s);
    targets[4] = wrong;
    args.targets = ctx_.from_host<int32_t>(targets, {s.rows});
    ctx_.kernel<ClassifierForward>()(ctx_, args);
    EXPECT_TRUE(std::isnan(loss_of(args))) << wrong;
    EXPECT_TRUE(std::isnan(to_host(args.dw).at(0, 0))) << wrong;
  }
}

TEST_F(ClassifierCuda, ChunksOfAnySizeGiveTheSame) {
  const Sizes s{530, 24, 80, 75};
  ClassifierArgs whole = args_for(s, DType::f32, 0.5f, 1.0f);
  ctx_.kernel<ClassifierForward>()(ctx_, whole);
  for (const int64_t rows : {1, 7, 128, 200, 529}) {
    ClassifierArgs parts = args_for(s, DType::f32, 0.5f, 1.0f);
    parts.max_chunk_bytes = rows * s.padded * 4;
    ctx_.kernel<ClassifierForward>()(ctx_, parts);
    EXPECT_NEAR(loss_of(parts), loss_of(whole), 1e-5 * loss_of(whole));
    EXPECT_LE(relative_difference(to_host(parts.dh), to_host(whole.dh)), 1e-5) << rows;
    EXPECT_LE(relative_difference(to_host(parts.dw), to_host(whole.dw)), 1e-5) << rows;
  }
}

TEST_F(ClassifierCuda, AddsToTheWeightsGradientWhenAsked) {
  const Sizes s{64, 16, 64, 60};
  ClassifierArgs once = args_for(s, DType::bf16, 1.0f, 1.0f), twice = args_for(s, DType::bf16, 1.0f, 1.0f);
  ctx_.kernel<ClassifierForward>()(ctx_, once);
  ctx_.kernel<ClassifierForward>()(ctx_, twice);
  twice.accumulate_weight = true;
  ctx_.kernel<ClassifierForward>()(ctx_, twice);
  HostMatrix doubled = to_host(once.dw);
  for (double& x : doubled.v) x *= 2.0;
  EXPECT_LE(relative_difference(to_host(twice.dw), doubled), 1e-5);
}

TEST_F(ClassifierCuda, NotANumberIsNeverHidden) {
  const Sizes s{16, 8, 40, 37};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    ClassifierArgs args = args_for(s, dtype, 1.0f, 1.0f);
    HostMatrix h = hidden_of(s, dtype);
    h.at(5, 1) = std::numeric_limits<double>::quiet_NaN();
    args.h = to_device(h, dtype);
    ctx_.kernel<ClassifierForward>()(ctx_, args);
    EXPECT_TRUE(std::isnan(loss_of(args)));
  }
}

TEST_F(ClassifierCuda, ATargetOutsideTheVocabularyShows) {
  const Sizes s{16, 8, 40, 37};
  for (const int32_t wrong : {37, 39, 1000000, -2}) {
    ClassifierArgs args = args_for(s, DType::bf16, 1.0f, 1.0f);
    std::vector<int32_t> targets = targets_of(s);
    targets[4] = wrong;
    args.targets = ctx_.from_host<int32_t>(targets, {s.rows});
    ctx_.kernel<ClassifierForward>()(ctx_, args);
    EXPECT_TRUE(std::isnan(loss_of(args))) << wrong;
    EXPECT_TRUE(std::isnan(to_host(args.dw).at(0, 0))) << wrong;
    args.dh = args.dw = Tensor();
    ctx_.kernel<ClassifierForward>()(ctx_, args);
    EXPECT_TRUE(std::isnan(loss_of(args))) << wrong << ", the loss alone";
  }
}

TEST_F(ClassifierCuda, OfPartsShowsATargetOutsideTheVocabulary) {
  const Sizes s{16, 8, 40, 37};
  for (const int32_t wrong : {0, 37, 39, 1000000, -2}) {
    std::vector<int32_t> targets = targets_of(s);
    targets[4] = wrong;
    Parameter w;
    w.shape = {s.padded, s.channels};
    w.data = to_device(weights_of(s, DType::bf16), DType::bf16);
    const ClassifierOfParts op(w, 1.0f, s.vocab, {0, 16, 24, 40}, 16);
    Saved saved;
    const Tensor h = to_device(hidden_of(s, DType::bf16), DType::bf16);
    const Tensor loss = op.forward(ctx_, std::array{h, ctx_.from_host<int32_t>(targets, {s.rows})}, saved)[0];
    EXPECT_EQ(std::isnan(to_host(loss).v[0]), wrong != 0) << wrong;
  }
}

}  // namespace
}  // namespace trireme
