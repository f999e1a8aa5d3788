// Matrix products of a GPU with all that is fused to them, against products in double: every type, sizes and addresses
// that nothing divides, and whatever algorithm was chosen.
#include "core/backend/cuda/matmul.h"

#include "core/backend/cuda/matmul_kernels.h"
#include "core/backend/cuda/product.h"
#include "tests/cuda/cuda_fixture.h"

namespace trireme {
namespace {

using namespace cuda;

struct Size {
  int64_t m, n, k;
};
struct Case {
  std::string name;
  DType dtype;
  bool tf32;
  Size size;
  int64_t offset;  // elements that matrices begin behind an aligned address
};

double gelu_of(double x) {
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}
double gelu_slope_of(double x) {
  const double k = std::sqrt(2.0 / M_PI), t = std::tanh(k * (x + 0.044715 * x * x * x));
  return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * k * (1.0 + 3.0 * 0.044715 * x * x);
}

class MatmulCuda : public CudaTest, public ::testing::WithParamInterface<Case> {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    start({.tf32 = GetParam().tf32, .tune = false});
  }

  const Size& size() const { return GetParam().size; }
  DType dtype() const { return GetParam().dtype; }
  /// Small enough that gelu's argument, a sum of k products, is about 1.
  HostMatrix input(int64_t rows, int64_t columns, uint64_t purpose) const {
    HostMatrix m = random_matrix(rows, columns, purpose, DType::f32);
    const float scale = 1.0f / std::sqrt(std::sqrt(static_cast<float>(size().k)));
    for (double& x : m.v) x = static_cast<double>(rounded(static_cast<float>(x) * scale, dtype()));
    return m;
  }
  Tensor device(const HostMatrix& m) { return to_device(m, dtype(), GetParam().offset); }
  Tensor vector_on_device(const HostMatrix& m, DType type) {
    return to_device(m, type, GetParam().offset).reshape({m.columns});
  }
  Tensor result(int64_t rows, int64_t columns, DType type) {
    Tensor t = empty(rows, columns, type, GetParam().offset);
    ctx_.kernel<FillKernel>()(ctx_, 1e4f, t);  // what is there must not matter
    return t;
  }

  void expect_close(const Tensor& got, const HostMatrix& wanted, const char* what) {
    expect_close(got, wanted, what, got.dtype());
  }
  /// `rounded_to`: the type that values had on their way.
  void expect_close(const Tensor& got, const HostMatrix& wanted, const char* what, DType rounded_to) {
    const double product_error = GetParam().tf32 ? 1e-3 : 1e-5;
    const double rounding = rounded_to == DType::bf16 ? 6e-3 : rounded_to == DType::f16 ? 2e-3 : 0.0;
    EXPECT_LE(relative_difference(to_host(got), wanted), product_error + rounding) << what;
  }
};

HostMatrix with_bias(HostMatrix m, const HostMatrix& bias) {
  for (int64_t r = 0; r < m.rows; ++r)
    for (int64_t c = 0; c < m.columns; ++c) m.at(r, c) += bias.at(0, c);
  return m;
}

TEST_P(MatmulCuda, TransposedSecond) {
  const auto [m, n, k] = size();
  const HostMatrix a = input(m, k, 1), b = input(n, k, 2), bias = input(1, n, 3);
  const Tensor da = device(a), db = device(b), dbias = vector_on_device(bias, dtype());
  const HostMatrix plain = product_of(a, false, b, true);
  for (const DType output : {dtype(), DType::f32}) {
    Tensor c = result(m, n, output);
    multiply_nt(ctx_, da, db, {}, c);
    expect_close(c, plain, "plain");
    c = result(m, n, output);
    multiply_nt(ctx_, da, db, dbias, c);
    expect_close(c, with_bias(plain, bias), "with bias");
  }
}

TEST_P(MatmulCuda, NoneTransposed) {
  const auto [m, n, k] = size();
  const HostMatrix a = input(m, k, 1), b = input(k, n, 2);
  for (const DType output : {dtype(), DType::f32}) {
    Tensor c = result(m, n, output);
    multiply_nn(ctx_, device(a), device(b), c);
    expect_close(c, product_of(a, false, b, false), "product");
  }
}

TEST_P(MatmulCuda, TransposedFirstAndItsSumOfRows) {
  const auto [m, n, k] = size();
  const HostMatrix a = input(k, m, 1), b = input(k, n, 2), before = input(m, n, 3), sums_before = input(1, m, 4);
  const Tensor da = device(a), db = device(b);
  HostMatrix once = product_of(a, true, b, false), added = once, sums(1, m), sums_added = sums_before;
  for (size_t i = 0; i < added.v.size(); ++i) added.v[i] += before.v[i];
  for (int64_t l = 0; l < k; ++l)
    for (int64_t i = 0; i < m; ++i) sums.at(0, i) += a.at(l, i), sums_added.at(0, i) += a.at(l, i);
  for (const bool accumulate : {false, true}) {
    Tensor c = accumulate ? to_device(before, DType::f32, GetParam().offset) : result(m, n, DType::f32);
    multiply_tn(ctx_, da, db, accumulate, c);
    expect_close(c, accumulate ? added : once, "alone");
    for (const bool accumulate_sums : {false, true}) {
      c = accumulate ? to_device(before, DType::f32, GetParam().offset) : result(m, n, DType::f32);
      Tensor s = accumulate_sums ? vector_on_device(sums_before, DType::f32) : result(1, m, DType::f32).reshape({m});
      multiply_tn_and_sum(ctx_, da, db, accumulate, c, accumulate_sums, s);
      expect_close(c, accumulate ? added : once, "with sums");
      expect_close(s, accumulate_sums ? sums_added : sums, "sums");
    }
  }
}

TEST_P(MatmulCuda, Gelu) {
  const auto [m, n, k] = size();
  const HostMatrix a = input(m, k, 1), b = input(n, k, 2), bias = input(1, n, 3);
  const Tensor da = device(a), db = device(b), dbias = vector_on_device(bias, dtype());
  for (const bool has_bias : {false, true})
    for (const bool keep : {false, true}) {
      SCOPED_TRACE(std::string(has_bias ? "bias" : "no bias") + (keep ? ", kept" : ""));
      HostMatrix h = product_of(a, false, b, true);
      if (has_bias) h = with_bias(h, bias);
      HostMatrix c = h;
      for (double& x : c.v) x = gelu_of(x);
      Tensor dh = keep ? result(m, n, dtype()) : Tensor(), dc = result(m, n, dtype());
      multiply_nt_gelu(ctx_, da, db, has_bias ? dbias : Tensor(), dh, dc);
      expect_close(dc, c, "gelu");
      if (keep) expect_close(dh, h, "its argument");
    }
}

TEST_P(MatmulCuda, GeluBackward) {
  const auto [m, n, k] = size();
  const HostMatrix a = input(m, k, 1), b = input(k, n, 2);
  HostMatrix h = random_matrix(m, n, 3, dtype()), c = product_of(a, false, b, false);
  for (size_t i = 0; i < c.v.size(); ++i) c.v[i] *= gelu_slope_of(h.v[i]);
  HostMatrix sums(1, n);
  for (int64_t r = 0; r < m; ++r)
    for (int64_t j = 0; j < n; ++j) sums.at(0, j) += c.at(r, j);
  const Tensor da = device(a), db = device(b), dh = device(h);
  HostMatrix first(0, 0), first_sums(0, 0);
  Tensor none;
  for (int i = 0; i < 5; ++i) {
    Tensor dc = result(m, n, dtype());
    multiply_nn_gelu_backward(ctx_, da, db, dh, dc, none);
    expect_close(dc, c, "gradient");
    dc = result(m, n, dtype());
    Tensor s = result(1, n, DType::f32).reshape({n});
    multiply_nn_gelu_backward(ctx_, da, db, dh, dc, s);
    expect_close(dc, c, "gradient with sums");
    expect_close(s, sums, "sums", dtype());
    if (i == 0) first = to_host(dc), first_sums = to_host(s);
    EXPECT_EQ(to_host(dc).v, first.v);
    EXPECT_EQ(to_host(s).v, first_sums.v);
  }
  EXPECT_EQ(to_host(dh).v, h.v);
}

TEST_P(MatmulCuda, WithoutCublas) {
  const auto [m, n, k] = size();
  for (const bool transpose_a : {false, true})
    for (const bool transpose_b : {false, true}) {
      const HostMatrix a = transpose_a ? input(k, m, 1) : input(m, k, 1);
      const HostMatrix b = transpose_b ? input(n, k, 2) : input(k, n, 2);
      const HostMatrix before = input(m, n, 3);
      HostMatrix c = product_of(a, transpose_a, b, transpose_b);
      for (size_t i = 0; i < c.v.size(); ++i) c.v[i] += before.v[i];
      Product p;
      p.a = device(a), p.b = device(b), p.c = device(before);
      p.transpose_a = transpose_a, p.transpose_b = transpose_b;
      p.accumulate = true;
      plain_product(ctx_, p);
      expect_close(p.c, c, "product");
    }
}

TEST_P(MatmulCuda, RepeatsBitForBit) {
  const auto [m, n, k] = size();
  const Tensor a = device(input(k, m, 1)), b = device(input(k, n, 2));
  Tensor first = result(m, n, DType::f32), sums = result(1, m, DType::f32).reshape({m});
  multiply_tn_and_sum(ctx_, a, b, false, first, false, sums);
  const HostMatrix wanted = to_host(first), wanted_sums = to_host(sums);
  for (int i = 0; i < 5; ++i) {
    Tensor c = result(m, n, DType::f32), s = result(1, m, DType::f32).reshape({m});
    multiply_tn_and_sum(ctx_, a, b, false, c, false, s);
    EXPECT_EQ(to_host(c).v, wanted.v);
    EXPECT_EQ(to_host(s).v, wanted_sums.v);
  }
}

std::vector<Case> cases() {
  struct Type {
    const char* name;
    DType dtype;
    bool tf32;
  };
  struct Shape {
    const char* name;
    Size size;
    int64_t offset;
  };
  std::vector<Case> all;
  const std::vector<Type> types{{"f32", DType::f32, false}, {"tf32", DType::f32, true}, {"bf16", DType::bf16, false},
                                {"f16", DType::f16, false}};
  const std::vector<Shape> shapes{{"Aligned", {256, 192, 320}, 0}, {"Odd", {137, 131, 253}, 0},
                                  {"OddBehindAnElement", {137, 131, 253}, 1}, {"BehindAnElement", {128, 64, 96}, 1},
                                  {"OneRow", {1, 256, 128}, 0}, {"OddWidth", {64, 50, 72}, 0}, {"One", {1, 1, 1}, 0}};
  for (const Type& type : types)
    for (const Shape& shape : shapes)
      all.push_back({std::string(type.name) + shape.name, type.dtype, type.tf32, shape.size, shape.offset});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Products, MatmulCuda, testing::ValuesIn(cases()), [](const auto& info) { return info.param.name; });

class ColumnSumCuda : public CudaTest {};

TEST_F(ColumnSumCuda, OfAProductWithoutRowsIsZero) {
  const HostMatrix none(0, 16);
  Tensor c = to_device(none, DType::bf16), sums = to_device(random_matrix(1, 16, 1, DType::f32), DType::f32).reshape({16});
  const Tensor b = to_device(random_matrix(16, 16, 2, DType::bf16), DType::bf16);
  multiply_nn_gelu_backward(ctx_, to_device(none, DType::bf16), b, to_device(none, DType::bf16), c, sums);
  EXPECT_EQ(to_host(sums).v, std::vector<double>(16, 0.0));
}

TEST_F(ColumnSumCuda, IsTheSumOfRowsForAnySize) {
  const std::vector<std::pair<int64_t, int64_t>> sizes{{4096, 2304}, {4099, 253}, {1, 8}, {3, 1},
                                                      {70000, 40},  {0, 16},     {257, 3072}};
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const auto& [rows, width] : sizes)
      for (const bool accumulate : {false, true}) {
        SCOPED_TRACE(std::string(name_of(dtype)) + " " + std::to_string(rows) + " x " + std::to_string(width));
        const HostMatrix x = random_matrix(rows, width, 1, dtype), before = random_matrix(1, width, 2, DType::f32);
        HostMatrix wanted(1, width);
        if (accumulate) wanted = before;
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < width; ++c) wanted.at(0, c) += x.at(r, c);
        Tensor sums = to_device(before, DType::f32).reshape({width});
        column_sum(ctx_, to_device(x, dtype), accumulate, sums);
        EXPECT_LE(relative_difference(to_host(sums), wanted), 2e-6);
      }
}

}  // namespace
}  // namespace trireme
