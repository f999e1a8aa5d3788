// The op table: one row an op, and what is claimed of each: its gradients are those of finite differences, B
// and W apart give what backward gives, bf16 is f32 within its rounding, gradients add up, threads don't
// matter.
#include <gtest/gtest.h>

#include <cmath>

#include "core/ops/attention.h"
#include "core/ops/classifier.h"
#include "core/ops/embedding.h"
#include "core/ops/gelu.h"
#include "core/ops/layer_norm.h"
#include "core/ops/linear.h"
#include "core/ops/mlp.h"
#include "tests/core/op_table.h"

namespace trireme {
namespace {

// Sizes are odd, and large enough that two threads share the work of most rows (kMinParallelElements).
constexpr int64_t N = 137, C = 253, V = 131;  // rows, channels, vocabulary
using Inputs = std::span<const Tensor>;
using Parameters = std::span<Parameter>;

Tensor tokens_below(Context& ctx, int64_t vocab, const Shape& shape) {
  std::vector<int32_t> ids(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>((i * i + 3 * i) % static_cast<size_t>(vocab));
  return ctx.from_host<int32_t>(ids, shape);
}

/// Targets below `vocab`, every fifth of them ignored, none the token of tokens_below().
Tensor targets_below(Context& ctx, int64_t vocab) {
  Tensor targets = tokens_below(ctx, vocab, {N});
  for (int64_t n = 0; n < N; ++n) {
    int32_t& target = targets.data<int32_t>()[n];
    target = n % 5 == 0 ? -1 : (target + 7) % static_cast<int32_t>(vocab);
  }
  return targets;
}

std::vector<OpRow> elementwise_rows() {
  return {
      {"add",
       {{N, C}, {N, C}},
       {},
       [](Context& ctx, Inputs x, Parameters) { return Tensors{add(ctx, x[0], x[1])}; }},
      {"add_to_itself",
       {{N, C}},
       {},
       [](Context& ctx, Inputs x, Parameters) { return Tensors{add(ctx, x[0], x[0])}; }},
      {"scale",
       {{N, C}},
       {},
       [](Context& ctx, Inputs x, Parameters) { return Tensors{scale(ctx, x[0], -1.5f)}; }},
      {"dropout",
       {{N, C}},
       {},
       [](Context& ctx, Inputs x, Parameters) {
         return Tensors{dropout(ctx, x[0], 0.3f, hash_name("test"), N)};
       }},
      {"gelu", {{N, C}}, {}, [](Context& ctx, Inputs x, Parameters) { return Tensors{gelu(ctx, x[0])}; }},
  };
}

std::vector<OpRow> linear_rows() {
  return {
      {"linear",
       {{N, C}},
       {{"w", {V, C}}, {"b", {V}}},
       [](Context& ctx, Inputs x, Parameters p) { return Tensors{linear(ctx, x[0], p[0], &p[1])}; }},
      {"linear_without_bias",
       {{N, C}},
       {{"w", {V, C}}},
       [](Context& ctx, Inputs x, Parameters p) { return Tensors{linear(ctx, x[0], p[0], nullptr)}; }},
      {"linear_of_one_row",
       {{1, C}},
       {{"w", {V, C}}, {"b", {V}}},
       [](Context& ctx, Inputs x, Parameters p) { return Tensors{linear(ctx, x[0], p[0], &p[1])}; }},
      {"linear_used_twice",
       {{N, C}},
       {{"w", {C, C}}, {"b", {C}}},
       [](Context& ctx, Inputs x, Parameters p) {
         return Tensors{linear(ctx, scale(ctx, linear(ctx, x[0], p[0], &p[1]), 0.05f), p[0], &p[1])};
       }},
  };
}

std::vector<OpRow> mlp_rows() {
  const std::vector<ParameterRow> parameters{{"up_w", {V, C}}, {"up_b", {V}}, {"down_w", {C, V}}, {"down_b", {C}}};
  // Scaled down so that gelu's argument is about 1, where its slope is neither 0 nor 1.
  const auto row = [&](const char* name, bool recompute_gelu) {
    return OpRow{name, {{N, C}}, parameters, [recompute_gelu](Context& ctx, Inputs x, Parameters p) {
                   return Tensors{mlp(ctx, scale(ctx, x[0], 0.06f), {p[0], &p[1], p[2], &p[3]}, recompute_gelu)};
                 }};
  };
  const OpRow::Run without_bias = [](Context& ctx, Inputs x, Parameters p) {
    return Tensors{mlp(ctx, scale(ctx, x[0], 0.06f), {p[0], nullptr, p[1], nullptr})};
  };
  return {row("mlp", false),
          row("mlp_recomputing_gelu", true),
          {"mlp_without_bias", {{N, C}}, {{"up_w", {V, C}}, {"down_w", {C, V}}}, without_bias}};
}

std::vector<OpRow> layer_norm_rows() {
  const std::vector<ParameterRow> wb{{"w", {C}}, {"b", {C}}};
  return {
      {"layer_norm",
       {{N, C}},
       wb,
       [](Context& ctx, Inputs x, Parameters p) { return Tensors{layer_norm(ctx, x[0], p[0], &p[1])}; }},
      {"layer_norm_without_bias",
       {{N, C}},
       {{"w", {C}}},
       [](Context& ctx, Inputs x, Parameters p) { return Tensors{layer_norm(ctx, x[0], p[0], nullptr)}; }},
      {"add_layer_norm",
       {{N, C}, {N, C}},
       wb,
       [](Context& ctx, Inputs x, Parameters p) {
         const AddNormOutputs out = add_layer_norm(ctx, x[0], x[1], p[0], &p[1]);
         return Tensors{out.residual, out.normed};
       }},
      {"add_layer_norm_without_delta",
       {{N, C}},
       wb,
       [](Context& ctx, Inputs x, Parameters p) {
         const AddNormOutputs out = add_layer_norm(ctx, x[0], {}, p[0], &p[1]);
         return Tensors{out.residual, out.normed};
       }},
      {"add_layer_norm_normed_alone",
       {{N, C}, {N, C}},
       wb,
       [](Context& ctx, Inputs x, Parameters p) {
         return Tensors{add_layer_norm(ctx, x[0], x[1], p[0], &p[1]).normed};
       }},
  };
}

std::vector<OpRow> table_rows() {
  return {
      {"embedding",
       {},
       {{"w", {V, C}}},
       [](Context& ctx, Inputs, Parameters p) {
         return Tensors{embedding(ctx, tokens_below(ctx, V, {3, N / 3}), p[0], nullptr)};
       }},
      {"embedding_with_positions",
       {},
       {{"w", {V, C}}, {"positions", {N, C}}},
       [](Context& ctx, Inputs, Parameters p) {
         return Tensors{embedding(ctx, tokens_below(ctx, V, {3, N / 3}), p[0], &p[1], 5)};
       }},
      {"classifier",
       {{N, C}},
       {{"w", {V, C}}},
       [](Context& ctx, Inputs x, Parameters p) {
         return Tensors{
             classifier_loss(ctx, scale(ctx, x[0], 0.1f), p[0], targets_below(ctx, V), 1.0f / N, V)};
       }},
      {"classifier_with_padding",
       {{N, C}},
       {{"w", {V, C}}},
       [](Context& ctx, Inputs x, Parameters p) {
         return Tensors{
             classifier_loss(ctx, scale(ctx, x[0], 0.1f), p[0], targets_below(ctx, V - 9), 0.5f, V - 9)};
       }},
      {"tied_embedding_and_classifier",
       {},
       {{"w", {V, C}}},
       [](Context& ctx, Inputs, Parameters p) {
         const Tensor h = embedding(ctx, tokens_below(ctx, V, {1, N}), p[0], nullptr);
         return Tensors{classifier_loss(ctx, scale(ctx, h, 0.1f), p[0], targets_below(ctx, V), 1.0f / N, V)};
       }},
  };
}

std::vector<OpRow> attention_rows() {
  const auto row = [](const char* name, AttentionShape shape) {
    const Shape qkv{shape.batch * shape.tokens, shape.qkv_width()};
    return OpRow{name, {qkv}, {}, [shape](Context& ctx, Inputs x, Parameters) {
                   return Tensors{attention(ctx, x[0], shape)};
                 }};
  };
  return {
      row("attention_causal", {.batch = 2, .tokens = 37, .heads = 3, .kv_heads = 3, .head_dim = 19}),
      row("attention_of_all_tokens",
          {.batch = 2, .tokens = 70, .heads = 2, .kv_heads = 2, .head_dim = 33, .causal = false}),
      row("attention_grouped", {.batch = 1, .tokens = 67, .heads = 6, .kv_heads = 2, .head_dim = 16}),
  };
}

std::vector<OpRow> all_rows() {
  std::vector<OpRow> rows;
  for (const auto& part :
       {elementwise_rows(), linear_rows(), mlp_rows(), layer_norm_rows(), table_rows(), attention_rows()})
    rows.insert(rows.end(), part.begin(), part.end());
  return rows;
}

double norm(const Values& v) {
  double sum = 0.0;
  for (float x : v) sum += static_cast<double>(x) * x;
  return std::sqrt(sum);
}

double relative_difference(const Values& a, const Values& b) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return std::sqrt(sum) / (norm(b) + 1e-30);
}

/// Every part of `a` within `tolerance` of b's, relative to its norm.
void expect_close(const OpResult& a, const OpResult& b, double tolerance) {
  const auto compare = [tolerance](const std::vector<Values>& x, const std::vector<Values>& y,
                                   const char* what) {
    ASSERT_EQ(x.size(), y.size());
    for (size_t i = 0; i < x.size(); ++i)
      EXPECT_LE(relative_difference(x[i], y[i]), tolerance) << what << " " << i;
  };
  compare(a.outputs, b.outputs, "output");
  compare(a.input_grads, b.input_grads, "gradient of input");
  compare(a.parameter_grads, b.parameter_grads, "gradient of parameter");
}

class OpTable : public testing::TestWithParam<OpRow> {};

/// <gradient, d> against the central difference of fourth order along random directions d. `set` moves the
/// values.
template <class Set>
void expect_derivative(OpRun& run, const OpRow& row, const Values& at, const Values& gradient,
                       const Set& set) {
  ASSERT_EQ(gradient.size(), at.size());
  for (uint64_t direction = 0; direction < 3; ++direction) {
    const Values d = OpRun::random_values({static_cast<int64_t>(at.size())}, 400 + direction);
    const auto loss_at = [&](double distance) {
      Values moved = at;
      for (size_t i = 0; i < at.size(); ++i) moved[i] += static_cast<float>(distance * d[i]);
      set(moved);
      return run.loss();
    };
    const double h = row.step;
    const double measured =
        (8.0 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12.0 * h);
    double claimed = 0.0;
    for (size_t i = 0; i < at.size(); ++i) claimed += static_cast<double>(gradient[i]) * d[i];
    EXPECT_NEAR(measured, claimed, row.difference_tolerance * norm(gradient)) << "direction " << direction;
  }
  set(at);
}

TEST_P(OpTable, GradientsAreFiniteDifferences) {
  const OpRow& row = GetParam();
  OpRun run(row, DType::f32, 1);
  const OpResult result = run.backward(Passes::together);
  for (size_t i = 0; i < row.inputs.size(); ++i) {
    SCOPED_TRACE("input " + std::to_string(i));
    ASSERT_GT(norm(result.input_grads[i]), 0.0);
    expect_derivative(run, row, Values(run.inputs()[i]), result.input_grads[i],
                      [&](const Values& values) { run.inputs()[i] = values; });
  }
  for (size_t i = 0; i < row.parameters.size(); ++i) {
    SCOPED_TRACE("parameter " + row.parameters[i].name);
    ASSERT_GT(norm(result.parameter_grads[i]), 0.0);
    expect_derivative(run, row, run.parameter(i), result.parameter_grads[i],
                      [&](const Values& values) { run.set_parameter(i, values); });
  }
}

TEST_P(OpTable, InputAndWeightPassesApartGiveTheSameBits) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    OpRun together(GetParam(), dtype, 2), apart(GetParam(), dtype, 2);
    const OpResult a = together.backward(Passes::together), b = apart.backward(Passes::apart);
    EXPECT_EQ(a.outputs, b.outputs);
    EXPECT_EQ(a.input_grads, b.input_grads);
    EXPECT_EQ(a.parameter_grads, b.parameter_grads);
    EXPECT_TRUE(together.inputs_unchanged() && apart.inputs_unchanged());
    EXPECT_TRUE(together.seeds_unchanged() && apart.seeds_unchanged());
  }
}

TEST_P(OpTable, Bf16IsF32WithinItsRounding) {
  const OpResult f32 = OpRun(GetParam(), DType::f32, 2).backward(Passes::together);
  const OpResult bf16 = OpRun(GetParam(), DType::bf16, 2).backward(Passes::together);
  expect_close(bf16, f32, GetParam().bf16_tolerance);
}

TEST_P(OpTable, GradientsAddUpOverMicroBatches) {
  OpRun run(GetParam(), DType::f32, 2);
  OpResult once = run.backward(Passes::together);
  const OpResult twice = run.backward(Passes::together);
  for (Values& gradient : once.parameter_grads)
    for (float& v : gradient) v *= 2.0f;
  expect_close(twice, once, 1e-6);
}

TEST_P(OpTable, ThreadsDoNotMatter) {
  const OpResult one = OpRun(GetParam(), DType::f32, 1).backward(Passes::together);
  const OpResult two = OpRun(GetParam(), DType::f32, 2).backward(Passes::together);
  expect_close(two, one, 2e-6);
  const OpResult again = OpRun(GetParam(), DType::f32, 2).backward(Passes::together);
  EXPECT_EQ(two.parameter_grads, again.parameter_grads);
  EXPECT_EQ(two.input_grads, again.input_grads);
  EXPECT_EQ(two.outputs, again.outputs);
}

INSTANTIATE_TEST_SUITE_P(Ops, OpTable, testing::ValuesIn(all_rows()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace trireme
