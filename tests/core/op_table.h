// The harness of the op table: one row says how to call an op; OpRun runs it on a backend of its own, forward
// and backward, and hands the results over as plain vectors.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/ops/elementwise.h"
#include "core/tape.h"

namespace trireme {

struct ParameterRow {
  std::string name;
  Shape shape;
};

/// One row of the table. `run` gets the inputs (f32 or bf16, as the test wants) and the parameters in the
/// order that the row lists them, and returns the outputs that gradients flow into.
struct OpRow {
  using Run =
      std::function<Tensors(Context&, std::span<const Tensor> inputs, std::span<Parameter> parameters)>;

  std::string name;
  std::vector<Shape> inputs;
  std::vector<ParameterRow> parameters;
  Run run;
  double difference_tolerance = 1e-3;  // of a directional derivative, relative to |gradient|
  double bf16_tolerance = 0.02;        // of every result, relative to its norm
  double step = 1e-2;                  // of the finite difference; elements are about 1

  friend void PrintTo(const OpRow& row, std::ostream* out) { *out << row.name; }
};

using Values = std::vector<float>;

/// What one forward and backward pass made.
struct OpResult {
  std::vector<Values> outputs, input_grads, parameter_grads;
};

enum class Passes { together, apart };  // B and W in one loop, or all of B and then all of W

class OpRun {
 public:
  OpRun(const OpRow& row, DType dtype, int num_threads) : OpRun(row, dtype, make_cpu_backend(num_threads)) {}
  OpRun(const OpRow& row, DType dtype, std::unique_ptr<Backend> backend)
      : row_(row), dtype_(dtype), engine_(std::move(backend)), ctx_(engine_.context()) {
    ctx_.training = true;
    for (size_t i = 0; i < row.inputs.size(); ++i) inputs_.push_back(random_values(row.inputs[i], 100 + i));
    parameters_.resize(row.parameters.size());
    for (size_t i = 0; i < parameters_.size(); ++i) {
      Parameter& p = parameters_[i];
      p.name = row.parameters[i].name;
      p.shape = row.parameters[i].shape;
      p.data = make_tensor(random_values(p.shape, 200 + i), p.shape);
      p.grad = ctx_.empty(p.shape, DType::f32, MemoryClass::gradients);
      ctx_.kernel<FillKernel>()(ctx_, kGarbage,
                                p.grad);  // what is there before the first write must not matter
    }
  }

  std::vector<Values>& inputs() { return inputs_; }
  Values parameter(size_t i) { return to_values(parameters_[i].data); }
  void set_parameter(size_t i, const Values& values) {
    parameters_[i].data = make_tensor(values, parameters_[i].shape);
  }

  /// sum over the outputs of <output, its seed>, without a tape.
  double loss() {
    double sum = 0.0;
    const Tensors outputs = row_.run(ctx_, make_inputs(nullptr), parameters_);
    for (size_t i = 0; i < outputs.size(); ++i) {
      const Values values = to_values(outputs[i]), seed = seed_of(outputs[i], i);
      for (size_t e = 0; e < values.size(); ++e) sum += static_cast<double>(values[e]) * seed[e];
    }
    return sum;
  }

  /// One forward and backward pass; gradients of parameters add up over calls.
  OpResult backward(Passes passes) {
    Tape tape;
    ctx_.tape = &tape;
    const Tensors inputs = make_inputs(&tape);
    const Tensors outputs = row_.run(ctx_, inputs, parameters_);
    OpResult result;
    Tensors seeds;
    for (size_t i = 0; i < outputs.size(); ++i) {
      result.outputs.push_back(to_values(outputs[i]));
      seeds.push_back(make_tensor(seed_of(outputs[i], i), outputs[i].shape(), outputs[i].dtype()));
    }
    if (passes == Passes::together) {
      tape.backward(ctx_, outputs, seeds);
    } else {
      tape.backward_input(ctx_, outputs, seeds);
      tape.backward_weight(ctx_);
    }
    for (const Tensor& t : inputs) result.input_grads.push_back(to_values(tape.take_grad(t)));
    for (const Parameter& p : parameters_) result.parameter_grads.push_back(to_values(p.grad));
    for (size_t i = 0; i < inputs.size(); ++i) inputs_unchanged_ &= to_values(inputs[i]) == inputs_[i];
    for (size_t i = 0; i < outputs.size(); ++i)
      seeds_unchanged_ &= to_values(seeds[i]) == seed_of(outputs[i], i);
    ctx_.tape = nullptr;
    return result;
  }

  /// False when a kernel wrote into an input or into a gradient that others hold.
  bool inputs_unchanged() const { return inputs_unchanged_; }
  bool seeds_unchanged() const { return seeds_unchanged_; }

  /// Standard normal, and exact in bf16, so that both types compute with the same numbers.
  static Values random_values(const Shape& shape, uint64_t purpose) {
    const RandomStream stream = make_stream(7, purpose);
    Values values(static_cast<size_t>(shape.numel()));
    for (size_t i = 0; i < values.size(); i += 4) {
      const auto block = to_normal(stream.block(i / 4));
      for (size_t j = i; j < std::min(i + 4, values.size()); ++j)
        values[j] = static_cast<float>(bf16(block[j - i]));
    }
    return values;
  }

 private:
  static constexpr float kGarbage = 1e30f;

  Tensor make_tensor(const Values& values, const Shape& shape) { return make_tensor(values, shape, dtype_); }
  Tensor make_tensor(const Values& values, const Shape& shape, DType dtype) {
    const Tensor t = ctx_.from_host<float>(values, shape);
    Context plain = ctx_;
    plain.tape = nullptr;
    return cast(plain, t, dtype);
  }
  Values to_values(const Tensor& t) {
    if (!t.defined()) return {};
    Context plain = ctx_;
    plain.tape = nullptr;
    const Tensor f = cast(plain, t.detach(), DType::f32);
    Values values(static_cast<size_t>(f.numel()));
    ctx_.backend->copy(values.data(), f.raw(), f.bytes(), *ctx_.stream);
    ctx_.stream->synchronize();
    return values;
  }
  Tensors make_inputs(Tape* tape) {
    Tensors tensors;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      tensors.push_back(make_tensor(inputs_[i], row_.inputs[i]));
      if (tape) tensors.back() = tape->watch(tensors.back());
    }
    return tensors;
  }
  /// A loss is its own root; other outputs get random gradients.
  static Values seed_of(const Tensor& output, size_t i) {
    return output.numel() == 1 ? Values{1.0f} : random_values(output.shape(), 300 + i);
  }

  const OpRow& row_;
  DType dtype_;
  Engine engine_;
  Context ctx_;
  std::vector<Values> inputs_;
  std::vector<Parameter> parameters_;
  bool inputs_unchanged_ = true, seeds_unchanged_ = true;
};

inline double norm(const Values& v) {
  double sum = 0.0;
  for (float x : v) sum += static_cast<double>(x) * x;
  return std::sqrt(sum);
}

inline double relative_difference(const Values& a, const Values& b) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return std::sqrt(sum) / (norm(b) + 1e-30);
}

/// Every part of `a` within `tolerance` of b's, relative to its norm.
inline void expect_close(const OpResult& a, const OpResult& b, double tolerance) {
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

}  // namespace trireme
