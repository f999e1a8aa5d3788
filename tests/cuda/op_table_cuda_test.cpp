// Every row of the op table on a GPU: in each precision what the host computes in f32, within what the precision's rounding
// explains; B and W apart the bits of both together; two runs the same bits. And larger rows, for the fast paths.
#include "core/ops/attention.h"
#include "core/ops/classifier.h"
#include "core/ops/embedding.h"
#include "core/ops/gelu.h"
#include "core/ops/layer_norm.h"
#include "core/ops/linear.h"
#include "core/ops/mlp.h"
#include "tests/core/classifier_parts.h"
#include "tests/core/op_rows.h"
#include "tests/cuda/gpu.h"

namespace trireme {
namespace {

using Inputs = std::span<const Tensor>;
using Parameters = std::span<Parameter>;

/// Tokens of which every second one is the same.
Tensor skewed_tokens(Context& ctx, int64_t vocab, const Shape& shape) {
  std::vector<int32_t> ids(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = i % 2 ? 11 : static_cast<int32_t>(i * 7919 % static_cast<size_t>(vocab));
  return ctx.from_host<int32_t>(ids, shape);
}

std::vector<OpRow> large_rows() {
  std::vector<OpRow> rows;
  // So many rows that blocks go on to the next ones.
  for (const auto& [count, width] : {std::pair<int64_t, int64_t>{4611, 768}, {2115, 1600}, {1063, 2048}, {515, 2056}, {301, 5000}}) {
    rows.push_back({"layer_norm_" + std::to_string(width), {{count, width}, {count, width}}, {{"w", {width}}, {"b", {width}}},
                    [](Context& ctx, Inputs x, Parameters p) {
                      const AddNormOutputs out = add_layer_norm(ctx, x[0], x[1], p[0], &p[1]);
                      return Tensors{out.residual, out.normed};
                    }});
  }
  rows.push_back({"linear_768_2304", {{1024, 768}}, {{"w", {2304, 768}}, {"b", {2304}}},
                  [](Context& ctx, Inputs x, Parameters p) { return Tensors{linear(ctx, x[0], p[0], &p[1])}; }});
  rows.push_back({"mlp_768_3072", {{512, 768}}, {{"w1", {3072, 768}}, {"b1", {3072}}, {"w2", {768, 3072}}, {"b2", {768}}},
                  [](Context& ctx, Inputs x, Parameters p) {
                    return Tensors{mlp(ctx, scale(ctx, x[0], 0.05f), {p[0], &p[1], p[2], &p[3]})};
                  }});
  rows.push_back({"classifier_768_8256", {{700, 768}}, {{"w", {8256, 768}}}, [](Context& ctx, Inputs x, Parameters p) {
                    return Tensors{classifier_loss(ctx, scale(ctx, x[0], 0.05f), p[0], skewed_tokens(ctx, 8200, {700}), 1.0f / 700, 8200)};
                  }});
  rows.push_back({"embedding_768_50304", {}, {{"w", {50304, 768}}, {"positions", {1024, 768}}}, [](Context& ctx, Inputs, Parameters p) {
                    return Tensors{embedding(ctx, skewed_tokens(ctx, 50257, {4, 1024}), p[0], &p[1])};
                  }});
  rows.push_back({"classifier_768_8256_of_four_parts", {{700, 768}}, {{"w", {8256, 768}}}, [](Context& ctx, Inputs x, Parameters p) {
                    const auto op = std::make_shared<ClassifierOfParts>(p[0], 1.0f / 700, 8200,
                                                                        std::vector<int64_t>{0, 2112, 4160, 6208, 8256}, 384);
                    return apply(ctx, op, {scale(ctx, x[0], 0.05f), skewed_tokens(ctx, 8200, {700})});
                  }});
  rows.push_back({"embedding_768_of_held_rows", {}, {{"w", {12608, 768}}, {"positions", {2048, 768}}}, [](Context& ctx, Inputs, Parameters p) {
                    const TokenPositions at(256, 512, 1280);
                    return Tensors{embedding(ctx, skewed_tokens(ctx, 50257, {4, 1024}), p[0], &p[1], at, {0, 50257})};
                  }});
  for (const auto& [name, shape] : {std::pair{"attention_1024", AttentionShape{2, 1024, 4, 4, 64, true}},
                                    std::pair{"attention_grouped_200", AttentionShape{2, 200, 8, 2, 128, true}},
                                    std::pair{"attention_of_all_256", AttentionShape{1, 256, 3, 3, 64, false}}})
    rows.push_back({name, {{shape.batch * shape.tokens, shape.qkv_width()}}, {}, [shape = shape](Context& ctx, Inputs x, Parameters) {
                      return Tensors{attention(ctx, x[0], shape)};
                    }});
  return rows;
}

std::vector<OpRow> all_rows() {
  std::vector<OpRow> rows = op_rows();
  for (OpRow& row : large_rows()) rows.push_back(std::move(row));
  return rows;
}

std::unique_ptr<Backend> gpu(bool tf32 = false) { return make_cuda_backend({.tf32 = tf32, .tune = false}); }

struct Precision {
  const char* name;
  DType dtype;
  bool tf32 = false;
};

class OpTableCuda : public testing::TestWithParam<OpRow> {};

/// Of each result relative to its norm: a few roundings of 2^-24 (f32), 2^-9 (bf16) or 2^-12 (f16, and operands in tf32, which
/// has as many bits) on the way, which do not add up in a norm.
double tolerance_of(const Precision& precision, const OpRow& row) {
  if (precision.dtype == DType::f32 && !precision.tf32) return 3e-5;
  return precision.dtype == DType::bf16 ? row.bf16_tolerance : row.bf16_tolerance / 4;
}

TEST_P(OpTableCuda, GivesWhatTheHostGives) {
  TRIREME_NEEDS_GPUS(1);
  const OpResult host = OpRun(GetParam(), DType::f32, 0).backward(Passes::together);
  for (const Precision& precision : {Precision{"f32", DType::f32}, {"tf32", DType::f32, true}, {"bf16", DType::bf16}, {"f16", DType::f16}}) {
    SCOPED_TRACE(precision.name);
    OpRun run(GetParam(), precision.dtype, gpu(precision.tf32));
    expect_close(run.backward(Passes::together), host, tolerance_of(precision, GetParam()));
    EXPECT_TRUE(precision.dtype == DType::f16 || (run.inputs_unchanged() && run.seeds_unchanged()));  // not all are exact in f16
  }
}

TEST_P(OpTableCuda, GivesTheSameBitsEachTimeAndWithThePassesApart) {
  TRIREME_NEEDS_GPUS(1);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(name_of(dtype));
    const OpResult first = OpRun(GetParam(), dtype, gpu()).backward(Passes::together);
    const OpResult again = OpRun(GetParam(), dtype, gpu()).backward(Passes::together);
    const OpResult apart = OpRun(GetParam(), dtype, gpu()).backward(Passes::apart);
    for (const OpResult* other : {&again, &apart}) {
      EXPECT_TRUE(first.outputs == other->outputs);
      EXPECT_TRUE(first.input_grads == other->input_grads);
      EXPECT_TRUE(first.parameter_grads == other->parameter_grads);
    }
  }
}

TEST_P(OpTableCuda, GradientsAddUpOverMicroBatches) {
  TRIREME_NEEDS_GPUS(1);
  OpRun run(GetParam(), DType::f32, gpu());
  OpResult once = run.backward(Passes::together);
  const OpResult twice = run.backward(Passes::together);
  for (Values& gradient : once.parameter_grads)
    for (float& v : gradient) v *= 2.0f;
  expect_close(twice, once, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Ops, OpTableCuda, testing::ValuesIn(all_rows()), [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace trireme
