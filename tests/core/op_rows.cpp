#include "tests/core/op_rows.h"

#include "core/ops/attention.h"
#include "core/ops/classifier.h"
#include "core/ops/embedding.h"
#include "core/ops/gelu.h"
#include "core/ops/layer_norm.h"
#include "core/ops/linear.h"
#include "core/ops/mlp.h"
#include "core/ops/rows.h"
#include "tests/core/attention_in_blocks.h"
#include "tests/core/classifier_parts.h"

namespace trireme {
namespace {

// Sizes are odd, and large enough that two threads share the work of most rows (kMinParallelElements).
constexpr int64_t N = 137, C = 253, V = 131;  // rows, channels, vocabulary
using Inputs = std::span<const Tensor>;
using Parameters = std::span<Parameter>;

std::vector<int32_t> ids_below(int64_t vocab, int64_t count) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>((i * i + 3 * i) % static_cast<size_t>(vocab));
  return ids;
}

Tensor tokens_below(Context& ctx, int64_t vocab, const Shape& shape) {
  return ctx.from_host<int32_t>(ids_below(vocab, shape.numel()), shape);
}

/// Targets below `vocab`, every fifth of them ignored, none the token of tokens_below().
Tensor targets_below(Context& ctx, int64_t vocab) {
  std::vector<int32_t> targets = ids_below(vocab, N);
  for (int64_t n = 0; n < N; ++n) {
    int32_t& target = targets[static_cast<size_t>(n)];
    target = n % 5 == 0 ? -1 : (target + 7) % static_cast<int32_t>(vocab);
  }
  return ctx.from_host<int32_t>(targets, {N});
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
      {"split_rows",
       {{N, C}},
       {},
       [](Context& ctx, Inputs x, Parameters) {
         const auto parts = split_rows(ctx, x[0], N / 3);
         return Tensors{parts[0], parts[1]};
       }},
      {"join_rows",
       {{N, C}, {N / 2, C}},
       {},
       [](Context& ctx, Inputs x, Parameters) { return Tensors{join_rows(ctx, x[0], x[1])}; }},
      {"split_rows_of_which_one_part_is_used",
       {{N, C}},
       {},
       [](Context& ctx, Inputs x, Parameters) { return Tensors{scale(ctx, split_rows(ctx, x[0], N / 2)[1], 2.0f)}; }},
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
      {"dropout_of_parts_of_samples",
       {{N, C}},
       {},
       [](Context& ctx, Inputs x, Parameters) {
         Context part = ctx;
         part.random.rows = {.sequence = 90, .tokens = 40, .first = 11, .half = 23, .second = 60, .first_row = 7};
         return Tensors{dropout(part, x[0], 0.3f, hash_name("test"), 4)};
       }},
      {"gelu", {{N, C}}, {}, [](Context& ctx, Inputs x, Parameters) { return Tensors{gelu(ctx, x[0])}; }},
  };
}

/// For rows whose op leaves out a parameter that another rank adds: its gradient is as if it were added. The forward pass
/// that is differentiated leaves it out, those that finite differences are taken of, which have no tape, add it.
bool add_here(const Context& ctx) {
  return !ctx.tape;
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
      {"linear_with_bias_added_elsewhere",
       {{N, C}},
       {{"w", {V, C}}, {"b", {V}}},
       [](Context& ctx, Inputs x, Parameters p) {
         return Tensors{linear(ctx, x[0], p[0], &p[1], add_here(ctx))};
       }},
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
  const OpRow::Run bias_elsewhere = [](Context& ctx, Inputs x, Parameters p) {
    return Tensors{mlp(ctx, scale(ctx, x[0], 0.06f), {p[0], &p[1], p[2], &p[3], add_here(ctx)})};
  };
  return {row("mlp", false),
          {"mlp_with_bias_added_elsewhere", {{N, C}}, parameters, bias_elsewhere},
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
      {"embedding_of_held_rows",
       {},
       {{"w", {V / 3, C}}},
       [](Context& ctx, Inputs, Parameters p) {
         return Tensors{embedding(ctx, tokens_below(ctx, V, {3, N / 3}), p[0], nullptr, {}, {V / 2, V})};
       }},
      {"embedding_of_held_rows_with_two_runs_of_positions",
       {},
       {{"w", {V / 3, C}}, {"positions", {N, C}}},
       [](Context& ctx, Inputs, Parameters p) {
         const TokenPositions at(N / 3, 10, 3);
         return Tensors{embedding(ctx, tokens_below(ctx, V, {3, N / 3}), p[0], &p[1], at, {V / 2, V})};
       }},
      {"embedding_part_with_positions_added_elsewhere",
       {},
       {{"w", {V - 80, C}}, {"positions", {N, C}}},
       [](Context& ctx, Inputs, Parameters p) {
         const Tensor tokens = tokens_below(ctx, V, {3, N / 3});
         return Tensors{embedding(ctx, tokens, p[0], &p[1], {5, 20, 90}, {.first = 33, .vocab = V}, add_here(ctx))};
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
      // The last part is padding alone, and the one before it has a row of padding.
      {"classifier_of_three_parts",
       {{N, C}},
       {{"w", {V, C}}},
       [](Context& ctx, Inputs x, Parameters p) {
         const auto op = std::make_shared<ClassifierOfParts>(p[0], 0.5f, V - 9, std::vector<int64_t>{0, 64, V - 8, V}, 50);
         return apply(ctx, op, {scale(ctx, x[0], 0.1f), targets_below(ctx, V - 9)});
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
  const auto in_blocks = [](const char* name, AttentionShape shape, int64_t cut) {
    const Shape qkv{shape.batch * shape.tokens, shape.qkv_width()};
    return OpRow{name, {qkv}, {}, [shape, cut](Context& ctx, Inputs x, Parameters) {
                   return Tensors{attention_in_blocks(ctx, x[0], shape, cut)};
                 }};
  };
  return {
      row("attention_causal", {.batch = 2, .tokens = 37, .heads = 3, .kv_heads = 3, .head_dim = 19}),
      row("attention_of_all_tokens",
          {.batch = 2, .tokens = 70, .heads = 2, .kv_heads = 2, .head_dim = 33, .causal = false}),
      row("attention_grouped", {.batch = 1, .tokens = 67, .heads = 6, .kv_heads = 2, .head_dim = 16}),
      in_blocks("attention_in_blocks", {.batch = 2, .tokens = 71, .heads = 4, .kv_heads = 2, .head_dim = 19}, 30),
      in_blocks("attention_of_all_tokens_in_blocks",
                {.batch = 2, .tokens = 70, .heads = 2, .kv_heads = 2, .head_dim = 40, .causal = false}, 67),
  };
}

}  // namespace

std::vector<OpRow> op_rows() {
  std::vector<OpRow> rows;
  for (const auto& part :
       {elementwise_rows(), linear_rows(), mlp_rows(), layer_norm_rows(), table_rows(), attention_rows()})
    rows.insert(rows.end(), part.begin(), part.end());
  return rows;
}

}  // namespace trireme
