// What the op table can't say of single operations: their values, their errors, and the classifier's chunks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <thread>

#include "core/ops/classifier.h"
#include "core/ops/elementwise.h"
#include "core/ops/embedding.h"
#include "core/ops/gelu.h"
#include "core/ops/layer_norm.h"
#include "core/ops/linear.h"
#include "core/ops/mlp.h"
#include "core/rng.h"
#include "core/tape.h"

namespace trireme {
namespace {

using testing::HasSubstr;

class Ops : public testing::Test {
 protected:
  Tensor normal(Shape shape, uint64_t purpose) {
    Tensor t = ctx_.empty(shape);
    const RandomStream stream = make_stream(1, purpose);
    for (int64_t i = 0; i < t.numel(); ++i)
      t.data<float>()[i] = to_normal(stream.block(static_cast<uint64_t>(i)))[0];
    return t;
  }
  Parameter parameter(Shape shape, uint64_t purpose) {
    Parameter p;
    p.name = "w";
    p.shape = shape;
    p.data = normal(shape, purpose);
    p.grad = ctx_.zeros(shape);
    return p;
  }
  template <class F>
  std::string message_of(const F& f) {
    try {
      f();
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "no ConfigError";
  }

  Engine engine_{make_cpu_backend(2)};
  Context ctx_ = engine_.context();
};

TEST_F(Ops, GeluIsAccurateFarFromZero) {
  std::vector<float> at;
  for (float x = -12.0f; x <= 12.0f; x += 0.01f) at.push_back(x);
  at.insert(at.end(), {0.0f, -0.0f, 1e-20f, 100.0f, -100.0f, 1e10f, -1e10f});
  Tape tape;
  ctx_.tape = &tape;
  const Tensor x = tape.watch(ctx_.from_host<float>(at, {static_cast<int64_t>(at.size())}));
  const Tensor y = gelu(ctx_, x);
  tape.backward(ctx_, y);
  const Tensor dx = tape.take_grad(x);
  const double k = std::sqrt(2.0 / M_PI);
  for (size_t i = 0; i < at.size(); ++i) {
    const double v = at[i], u = k * (v + 0.044715 * v * v * v);
    const double s = 1.0 / (1.0 + std::exp(-2.0 * u));
    const double slope = s + v * s * (1.0 - s) * 2.0 * k * (1.0 + 3.0 * 0.044715 * v * v);
    // The error of e^-2u grows with |u|, whose own rounding is relative.
    EXPECT_NEAR(y.span<float>()[i], v * s,
                3e-7 * (1.0 + std::min(std::abs(u), 90.0)) * std::abs(v * s) + 1e-24)
        << v;
    EXPECT_NEAR(dx.span<float>()[i], std::isfinite(slope) ? slope : s, 1e-6 * (1.0 + std::abs(slope))) << v;
  }
}

TEST_F(Ops, LayerNormIsCorrectWhenTheMeanIsFarFromZero) {
  constexpr int64_t rows = 3, width = 77;
  Tensor x = normal({rows, width}, 1);
  for (float& v : x.span<float>()) v = v * 0.5f + 300.0f;
  Parameter w = parameter({width}, 2), b = parameter({width}, 3);
  const Tensor y = layer_norm(ctx_, x, w, &b);
  for (int64_t n = 0; n < rows; ++n) {
    const float* row = x.data<float>() + n * width;
    double mean = 0.0, variance = 0.0;
    for (int64_t c = 0; c < width; ++c) mean += row[c] / static_cast<double>(width);
    for (int64_t c = 0; c < width; ++c)
      variance += (row[c] - mean) * (row[c] - mean) / static_cast<double>(width);
    for (int64_t c = 0; c < width; ++c) {
      const double expected =
          (row[c] - mean) / std::sqrt(variance + 1e-5) * w.data.data<float>()[c] + b.data.data<float>()[c];
      EXPECT_NEAR(y.data<float>()[n * width + c], expected, 2e-4);
    }
  }
}

TEST_F(Ops, EmbeddingNamesATokenOutsideTheVocabulary) {
  Parameter w = parameter({10, 8}, 1), positions = parameter({6, 8}, 2);
  const Tensor tokens = ctx_.from_host<int32_t>(std::vector<int32_t>{0, 1, 2, 3, 4, 10}, {2, 3});
  EXPECT_THAT(
      message_of([&] { embedding(ctx_, tokens, w, nullptr); }),
      HasSubstr(
          "token 10 at sample 1, position 2 of the micro-batch is outside the vocabulary of 10 tokens"));
  const Tensor negative = ctx_.from_host<int32_t>(std::vector<int32_t>{-3}, {1, 1});
  EXPECT_THAT(message_of([&] { embedding(ctx_, negative, w, nullptr); }), HasSubstr("token -3 at sample 0"));
  const Tensor good = ctx_.zeros({1, 3}, DType::i32);
  EXPECT_THAT(message_of([&] { embedding(ctx_, good, w, &positions, 4); }), HasSubstr("positions 4 to 6"));
}

TEST_F(Ops, PositionsBeyondTheTableAreRefusedInEitherRun) {
  Parameter w = parameter({4, 3}, 1), positions = parameter({9, 3}, 2);
  const Tensor tokens = ctx_.from_host<int32_t>(std::array<int32_t, 4>{0, 1, 2, 3}, {1, 4});
  const auto refusal = [&](const TokenPositions& at) {
    return message_of([&] { embedding(ctx_, tokens, w, &positions, at); });
  };
  EXPECT_EQ(refusal(5), "no ConfigError");
  EXPECT_EQ(refusal({0, 2, 7}), "no ConfigError");
  EXPECT_THAT(refusal(6), HasSubstr("positions 6 to 9 were asked for, the model has 9"));
  EXPECT_THAT(refusal({0, 2, 8}), HasSubstr("positions 8 to 9"));
  EXPECT_THAT(refusal({8, 2, 0}), HasSubstr("positions 8 to 9"));
}

TEST_F(Ops, ABiasThatAnotherRankAddsIsLeftOutOfTheResultAlone) {
  Parameter w = parameter({5, 4}, 1), b = parameter({5}, 2), up = parameter({4, 4}, 4);
  const Tensor x = normal({3, 4}, 3);
  const auto expect_without = [&](const Tensor& with, const Tensor& without) {
    for (int64_t n = 0; n < 3; ++n)
      for (int64_t o = 0; o < 5; ++o)
        EXPECT_NEAR(with.data<float>()[n * 5 + o] - without.data<float>()[n * 5 + o], b.data.data<float>()[o], 1e-6);
  };
  expect_without(linear(ctx_, x, w, &b), linear(ctx_, x, w, &b, false));
  expect_without(mlp(ctx_, x, {up, nullptr, w, &b}), mlp(ctx_, x, {up, nullptr, w, &b, false}));
}

TEST_F(Ops, ClassifierNamesATargetOutsideTheVocabulary) {
  Parameter w = parameter({12, 8}, 1);
  const Tensor h = normal({3, 8}, 2);
  const Tensor targets = ctx_.from_host<int32_t>(std::vector<int32_t>{0, -1, 10}, {3});
  EXPECT_THAT(message_of([&] { classifier_loss(ctx_, h, w, targets, 1.0f, 10); }),
              HasSubstr("target 10 in row 2 of the micro-batch is outside the vocabulary of 10 tokens"));
}

/// The loss by its definition, in double.
double reference_loss(const Tensor& h, const Tensor& w, const Tensor& targets, int64_t vocab) {
  const int64_t width = h.dim(1);
  double loss = 0.0;
  for (int64_t n = 0; n < h.dim(0); ++n) {
    const int32_t target = targets.data<int32_t>()[n];
    if (target < 0) continue;
    std::vector<double> logits(static_cast<size_t>(vocab));
    double sum = 0.0;
    for (int64_t v = 0; v < vocab; ++v) {
      for (int64_t c = 0; c < width; ++c)
        logits[static_cast<size_t>(v)] +=
            static_cast<double>(h.data<float>()[n * width + c]) * w.data<float>()[v * width + c];
      sum += std::exp(logits[static_cast<size_t>(v)]);
    }
    loss += std::log(sum) - logits[static_cast<size_t>(target)];
  }
  return loss;
}

TEST_F(Ops, ClassifierIsTheSameInChunksOfAnySize) {
  constexpr int64_t rows = 53, width = 24, padded = 75, vocab = 70;
  const Parameter w = parameter({padded, width}, 1);
  ClassifierArgs args;
  args.h = normal({rows, width}, 2);
  args.w = w.data;
  args.vocab = vocab;
  args.scale = 0.25f;
  args.loss_scale = ctx_.from_host<float>(std::array{8.0f}, {1});
  args.targets = ctx_.zeros({rows}, DType::i32);
  for (int64_t n = 0; n < rows; ++n)
    args.targets.data<int32_t>()[n] = static_cast<int32_t>(n * 31 % (vocab + 1)) - 1;
  const auto run = [&](int64_t max_chunk_bytes) {
    args.max_chunk_bytes = max_chunk_bytes;
    args.loss = ctx_.empty({1});
    args.dh = ctx_.empty({rows, width});
    args.dw = ctx_.empty({padded, width});
    ctx_.kernel<ClassifierForward>()(ctx_, args);
    return args;
  };
  const ClassifierArgs whole = run(int64_t{64} << 20);
  EXPECT_NEAR(whole.loss.item<float>(), 0.25 * reference_loss(args.h, args.w, args.targets, vocab), 1e-4);
  for (float v : whole.dw.slice(vocab, padded).span<float>()) EXPECT_EQ(v, 0.0f);  // padding learns nothing
  for (int64_t chunk_rows : {1, 7, 52}) {
    const ClassifierArgs parts = run(chunk_rows * padded * 4);
    EXPECT_NEAR(parts.loss.item<float>(), whole.loss.item<float>(), 1e-5);
    for (int64_t i = 0; i < whole.dh.numel(); ++i)
      EXPECT_NEAR(parts.dh.data<float>()[i], whole.dh.data<float>()[i], 1e-5);
    for (int64_t i = 0; i < whole.dw.numel(); ++i)
      EXPECT_NEAR(parts.dw.data<float>()[i], whole.dw.data<float>()[i], 1e-4);
  }
}

TEST_F(Ops, ClassifierWithoutATapeGivesTheLossAlone) {
  Parameter w = parameter({16, 8}, 1);
  const Tensor h = normal({5, 8}, 2), targets = ctx_.zeros({5}, DType::i32);
  const float alone = classifier_loss(ctx_, h, w, targets, 1.0f, 16).item<float>();
  EXPECT_FALSE(w.grad_written);
  Tape tape;
  ctx_.tape = &tape;
  EXPECT_EQ(classifier_loss(ctx_, h, w, targets, 1.0f, 16).item<float>(), alone);
  EXPECT_TRUE(w.grad_written);
}

TEST_F(Ops, NotANumberIsNeverHidden) {
  Parameter w = parameter({37, 8}, 1);
  Tensor h = normal({5, 8}, 2);
  h.data<float>()[3 * 8 + 1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(classifier_loss(ctx_, h, w, ctx_.zeros({5}, DType::i32), 1.0f, 37).item<float>()));
  EXPECT_TRUE(std::isnan(gelu(ctx_, h).data<float>()[3 * 8 + 1]));
  Parameter norm = parameter({8}, 3);
  EXPECT_TRUE(std::isnan(layer_norm(ctx_, h, norm, nullptr).data<float>()[3 * 8]));
}

TEST_F(Ops, ClassifierScalesGradientsByTheLossScale) {
  Parameter w = parameter({16, 8}, 1);
  const Tensor targets = ctx_.zeros({5}, DType::i32), values = normal({5, 8}, 2);
  const auto grad_with = [&](float loss_scale) {
    Tape tape;
    ctx_.tape = &tape;
    ctx_.loss_scale = ctx_.from_host<float>(std::array{loss_scale}, {1});
    w.grad_written = false;
    const Tensor h = tape.watch(values);
    tape.backward(ctx_, classifier_loss(ctx_, h, w, targets, 1.0f, 16));
    return std::pair(tape.take_grad(h).data<float>()[3], w.grad.data<float>()[9]);
  };
  const auto [dh, dw] = grad_with(1.0f);
  EXPECT_EQ(grad_with(1024.0f), std::pair(1024.0f * dh, 1024.0f * dw));
}

TEST_F(Ops, ShapesThatDoNotFitAreRefused) {
  Parameter w = parameter({6, 4}, 1), b = parameter({5}, 2);
  EXPECT_THROW(linear(ctx_, ctx_.zeros({3, 5}), w, nullptr), InternalError);
  EXPECT_THROW(linear(ctx_, ctx_.zeros({3, 4}), w, &b), InternalError);
  EXPECT_THROW(layer_norm(ctx_, ctx_.zeros({3, 4}), b, nullptr), InternalError);
}

TEST_F(Ops, SavedInputsGiveTheWeightGradientOfAConstantInput) {
  // Nothing before the layer wants a gradient, so B never runs; W must not need it.
  Parameter w = parameter({40}, 1), b = parameter({40}, 2);
  const Tensor values = normal({30, 40}, 3);
  const auto grads = [&](bool watch) {
    Tape tape;
    ctx_.tape = &tape;
    w.grad_written = b.grad_written = false;
    const Tensor y = layer_norm(ctx_, watch ? tape.watch(values) : values, w, &b);
    tape.backward(ctx_, y);
    std::vector<float> all(w.grad.span<float>().begin(), w.grad.span<float>().end());
    all.insert(all.end(), b.grad.span<float>().begin(), b.grad.span<float>().end());
    return all;
  };
  EXPECT_EQ(grads(false), grads(true));
}

TEST_F(Ops, MlpOfAConstantInputHasTheSameWeightGradients) {
  Parameter up_w = parameter({24, 8}, 1), up_b = parameter({24}, 2), down_w = parameter({8, 24}, 3);
  const Tensor values = normal({30, 8}, 4);
  const auto grads = [&](bool watch, bool recompute_gelu) {
    Tape tape;
    ctx_.tape = &tape;
    up_w.grad_written = up_b.grad_written = down_w.grad_written = false;
    const Tensor x = watch ? tape.watch(values) : values;
    tape.backward(ctx_, mlp(ctx_, x, {up_w, &up_b, down_w, nullptr}, recompute_gelu));
    std::vector<float> all;
    for (const Parameter* p : {&up_w, &up_b, &down_w})
      all.insert(all.end(), p->grad.span<float>().begin(), p->grad.span<float>().end());
    return all;
  };
  const std::vector<float> plain = grads(true, false);
  EXPECT_EQ(grads(false, false), plain);
  EXPECT_EQ(grads(false, true), plain);
  EXPECT_EQ(grads(true, true), plain);
}

TEST_F(Ops, MlpKeepsTheResultOfGeluUnlessItRecomputes) {
  constexpr int64_t rows = 512, hidden = 64;
  Parameter up = parameter({hidden, 8}, 1), down = parameter({8, hidden}, 2);
  const Tensor x = normal({rows, 8}, 3);
  const auto kept_bytes = [&](bool tape_it, bool recompute_gelu) {
    Tape tape;
    ctx_.tape = tape_it ? &tape : nullptr;
    const size_t before = engine_.allocator().stats().current(MemoryClass::activations);
    const Tensor y = mlp(ctx_, x, {up, nullptr, down, nullptr}, recompute_gelu);
    return engine_.allocator().stats().current(MemoryClass::activations) - before - y.bytes();
  };
  constexpr size_t hidden_bytes = rows * hidden * sizeof(float);
  EXPECT_EQ(kept_bytes(true, false), 2 * hidden_bytes);
  EXPECT_EQ(kept_bytes(true, true), hidden_bytes);
  EXPECT_EQ(kept_bytes(false, false), 0u);
}

TEST(Ranks, AsThreadsComputeAtTheSameTimeEachWithItsOwnBackend) {
  constexpr int kRanks = 4;
  std::vector<std::vector<float>> results(kRanks);
  const auto run_rank = [&results](int rank) {
    Engine engine(make_cpu_backend(2));
    Context ctx = engine.context();
    Parameter w;
    w.shape = {65, 33};
    w.data = ctx.empty(w.shape);
    w.grad = ctx.empty(w.shape);
    ctx.kernel<FillKernel>()(ctx, 0.01f, w.data);
    for (int repeat = 0; repeat < 5; ++repeat) {
      Tape tape;
      ctx.tape = &tape;
      Tensor x = ctx.empty({129, 33});
      for (int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] = static_cast<float>(i % 13) - 6.0f;
      tape.backward(ctx, gelu(ctx, linear(ctx, x, w, nullptr)));
    }
    results[static_cast<size_t>(rank)] = {w.grad.span<float>().begin(), w.grad.span<float>().end()};
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) threads.emplace_back(run_rank, rank);
  for (std::thread& t : threads) t.join();
  for (int rank = 1; rank < kRanks; ++rank) EXPECT_EQ(results[static_cast<size_t>(rank)], results[0]);
}

}  // namespace
}  // namespace trireme
