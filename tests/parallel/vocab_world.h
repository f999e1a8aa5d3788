// What the tests of a split vocabulary share: a rank with a backend of its own, parameters with known
// numbers, and tensors of it as plain vectors.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "comm/group.h"
#include "comm/host_tensor.h"
#include "core/context.h"
#include "core/ops/elementwise.h"
#include "core/tape.h"

namespace trireme {

using Values = std::vector<float>;

/// Standard normal times `factor`, exact in bf16.
inline Values normal_values(int64_t count, uint64_t purpose, float factor = 1.0f) {
  const RandomStream stream = make_stream(3, purpose);
  Values values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(bf16(factor * to_normal(stream.block(i / 4))[i % 4]));
  return values;
}

inline double norm(std::span<const float> v) {
  double sum = 0.0;
  for (const float x : v) sum += static_cast<double>(x) * x;
  return std::sqrt(sum);
}
/// |a - b| / |b|
inline double relative_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  if (a.size() != b.size()) return 1e30;
  Values difference(a.size());
  for (size_t i = 0; i < a.size(); ++i) difference[i] = a[i] - b[i];
  return norm(difference) / (norm(b) + 1e-30);
}

struct VocabRank {
  explicit VocabRank(DType type = DType::f32) : dtype(type) {}

  Tensor tensor(const Values& values, const Shape& shape) { return tensor(values, shape, dtype); }
  Tensor tensor(const Values& values, const Shape& shape, DType type) {
    return cast(plain, plain.from_host<float>(values, shape), type);
  }
  /// Rows [first, first + count) of the [.., width] array `values`; the gradient holds garbage.
  Parameter parameter(const char* name, const Values& values, int64_t width, int64_t first, int64_t count) {
    Parameter p;
    p.name = name;
    p.shape = {count, width};
    p.data =
        tensor(Values(values.begin() + first * width, values.begin() + (first + count) * width), p.shape);
    p.grad = plain.empty(p.shape, DType::f32, MemoryClass::gradients);
    plain.kernel<FillKernel>()(plain, 1e30f, p.grad);
    return p;
  }
  Values values(const Tensor& t) {
    const Tensor f = cast(plain, t.detach(), DType::f32);
    return {f.data<float>(), f.data<float>() + f.numel()};
  }
  /// The sum over the ranks in f32, of tensors of any type.
  Values summed(const Tensor& t, Group& group) {
    Values sum = values(t);
    group.all_reduce(wrap_host(std::span(sum)), ReduceOp::sum, "sum").wait();
    return sum;
  }

  DType dtype;
  Engine engine{make_cpu_backend(1)};
  Context plain = engine.context();
};

}  // namespace trireme
