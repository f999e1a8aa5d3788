// The op table: one row an op, and what is claimed of each: its gradients are those of finite differences, B
// and W apart give what backward gives, bf16 is f32 within its rounding, gradients add up, threads don't
// matter.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/core/op_rows.h"

namespace trireme {
namespace {

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

INSTANTIATE_TEST_SUITE_P(Ops, OpTable, testing::ValuesIn(op_rows()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace trireme
