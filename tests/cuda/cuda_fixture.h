// What tests of GPU kernels share: an engine on the first GPU, matrices to and from it, and products in double.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include "core/context.h"
#include "core/ops/elementwise.h"
#include "core/rng.h"

namespace trireme {

/// A row-major matrix of the host.
struct HostMatrix {
  int64_t rows = 0, columns = 0;
  std::vector<double> v;

  HostMatrix(int64_t r, int64_t c) : rows(r), columns(c), v(static_cast<size_t>(r * c)) {}
  double& at(int64_t r, int64_t c) { return v[static_cast<size_t>(r * columns + c)]; }
  double at(int64_t r, int64_t c) const { return v[static_cast<size_t>(r * columns + c)]; }
};

inline float rounded(float x, DType dtype) {
  if (dtype == DType::bf16) return static_cast<float>(bf16(x));
  if (dtype == DType::f16) return static_cast<float>(f16(x));
  return x;
}

/// Standard normal numbers that are exact in `dtype`.
inline HostMatrix random_matrix(int64_t rows, int64_t columns, uint64_t purpose, DType dtype) {
  HostMatrix m(rows, columns);
  const RandomStream stream = make_stream(11, purpose);
  for (size_t i = 0; i < m.v.size(); ++i)
    m.v[i] = static_cast<double>(rounded(to_normal(stream.block(i / 4))[i % 4], dtype));
  return m;
}

/// op(a) op(b)
inline HostMatrix product_of(const HostMatrix& a, bool transpose_a, const HostMatrix& b, bool transpose_b) {
  const int64_t m = transpose_a ? a.columns : a.rows, k = transpose_a ? a.rows : a.columns;
  HostMatrix c(m, transpose_b ? b.rows : b.columns);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < c.columns; ++j) {
      double sum = 0.0;
      for (int64_t l = 0; l < k; ++l)
        sum += (transpose_a ? a.at(l, i) : a.at(i, l)) * (transpose_b ? b.at(j, l) : b.at(l, j));
      c.at(i, j) = sum;
    }
  return c;
}

/// |a - b| / |b|
inline double relative_difference(const HostMatrix& a, const HostMatrix& b) {
  EXPECT_EQ(a.v.size(), b.v.size());
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < std::min(a.v.size(), b.v.size()); ++i) {
    difference += (a.v[i] - b.v[i]) * (a.v[i] - b.v[i]);
    norm += b.v[i] * b.v[i];
  }
  return std::sqrt(difference / (norm + 1e-30));
}

class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (num_cuda_devices() == 0) GTEST_SKIP() << "not run: this machine shows no NVIDIA GPU";
    start({.tune = false});
  }
  void TearDown() override { engine_.reset(); }

  /// A new engine; the tensors of the one before must be gone.
  void start(const CudaOptions& options) {
    engine_.reset();
    engine_ = std::make_unique<Engine>(make_cuda_backend(options));
    ctx_ = engine_->context();
  }

  /// [rows, columns] of `dtype`, `offset` elements into its memory.
  Tensor to_device(const HostMatrix& m, DType dtype, int64_t offset = 0) {
    const std::vector<float> values(m.v.begin(), m.v.end());
    Tensor t = empty(m.rows, m.columns, dtype, offset);
    if (t.numel() == 0) return t;
    const Tensor f32 = ctx_.from_host<float>(values, {m.rows, m.columns});
    ctx_.kernel<CastKernel>()(ctx_, f32, t);
    return t;
  }
  Tensor empty(int64_t rows, int64_t columns, DType dtype, int64_t offset = 0) {
    return ctx_.empty({offset + rows * columns}, dtype).flat_view(offset, {rows, columns});
  }
  HostMatrix to_host(const Tensor& t) {
    const Tensor f32 = ctx_.empty(t.shape(), DType::f32);
    Tensor out = f32;
    ctx_.kernel<CastKernel>()(ctx_, t, out);
    std::vector<float> values(static_cast<size_t>(t.numel()));
    ctx_.backend->copy(values.data(), f32.raw(), f32.bytes(), *ctx_.stream);
    ctx_.stream->synchronize();
    HostMatrix m(t.rank() == 2 ? t.dim(0) : 1, t.rank() == 2 ? t.dim(1) : t.numel());
    m.v.assign(values.begin(), values.end());
    return m;
  }

  std::unique_ptr<Engine> engine_;
  Context ctx_;
};

}  // namespace trireme
