#include "core/backend/cuda/matmul.h"

#include <fmt/format.h>

#include "core/backend/cuda/matmul_engine.h"
#include "core/backend/cuda/matmul_kernels.h"
#include "core/ops/gelu.h"

namespace trireme::cuda {
namespace {

/// c = op(a) op(b), alone.
Product make_product(const Tensor& a, const Tensor& b, const Tensor& c, bool transpose_a, bool transpose_b) {
  Product p;
  p.a = a.detach();
  p.b = b.detach();
  p.c = c.detach();
  p.transpose_a = transpose_a;
  p.transpose_b = transpose_b;
  p.apart = &plain_product;
  TRIREME_ASSERT(a.rank() == 2 && b.rank() == 2 && c.rank() == 2 && p.k() == b.dim(transpose_b ? 1 : 0) &&
                     p.m() == a.dim(transpose_a ? 1 : 0) && p.n() == b.dim(transpose_b ? 0 : 1),
                 fmt::format("matrix product of {} and {} into {}", to_string(a.shape()), to_string(b.shape()),
                             to_string(c.shape())));
  TRIREME_ASSERT(a.dtype() == b.dtype() && (c.dtype() == a.dtype() || c.dtype() == DType::f32),
                 fmt::format("matrix product of {} and {} into {}", name_of(a.dtype()), name_of(b.dtype()),
                             name_of(c.dtype())));
  return p;
}

void run(Context& ctx, Product& p) { ctx.backend->state<MatmulEngine>().run(ctx, p); }

// ---- the fusions' parts one after the other

void bias_apart(Context& ctx, Product& p) {
  Product alone = make_product(p.a, p.b, p.c, p.transpose_a, p.transpose_b);
  run(ctx, alone);
  add_bias(ctx, p.bias, p.c);
}

void gelu_apart(Context& ctx, Product& p) {
  Tensor& argument = p.aux.defined() ? p.aux : p.c;
  multiply_nt(ctx, p.a, p.b, p.bias, argument);
  ctx.kernel<GeluForward>()(ctx, argument, p.c);
}

void gelu_backward_apart(Context& ctx, Product& p) {
  multiply_nn(ctx, p.a, p.b, p.c);
  ctx.kernel<GeluBackward>()(ctx, p.aux, p.c, p.c);
}

void sum_apart(Context& ctx, Product& p) {
  multiply_tn(ctx, p.a, p.b, p.accumulate, p.c);
  column_sum(ctx, p.a, p.accumulate_bias, p.bias);
}

}  // namespace

void multiply_nt(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& bias, Tensor& c) {
  Product p = make_product(a, b, c, false, true);
  if (bias.defined()) {
    p.fusion = Fusion::bias;
    p.bias = bias;
    p.apart = &bias_apart;
  }
  run(ctx, p);
}

void multiply_nn(Context& ctx, const Tensor& a, const Tensor& b, Tensor& c) {
  Product p = make_product(a, b, c, false, false);
  run(ctx, p);
}

void multiply_tn(Context& ctx, const Tensor& a, const Tensor& b, bool accumulate, Tensor& c) {
  Product p = make_product(a, b, c, true, false);
  p.accumulate = accumulate;
  run(ctx, p);
}

void multiply_nt_gelu(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& bias, Tensor& h, Tensor& c) {
  Product p = make_product(a, b, c, false, true);
  p.fusion = Fusion::gelu;
  p.bias = bias;
  p.aux = h;
  p.apart = &gelu_apart;
  run(ctx, p);
}

void multiply_nn_gelu_backward(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& h, Tensor& c, Tensor& sums) {
  Product p = make_product(a, b, c, false, false);
  p.fusion = Fusion::gelu_backward;
  p.aux = h;
  p.apart = &gelu_backward_apart;
  run(ctx, p);
  // Not fused: cuBLASLt gives sums of c's type, in which they would be rounded (bf16) or overflow (f16).
  if (sums.defined()) column_sum(ctx, c, false, sums);
}

void multiply_tn_and_sum(Context& ctx, const Tensor& a, const Tensor& b, bool accumulate, Tensor& c, bool accumulate_sums,
                         Tensor& sums) {
  Product p = make_product(a, b, c, true, false);
  p.accumulate = accumulate;
  p.fusion = Fusion::sum;
  p.bias = sums;
  p.accumulate_bias = accumulate_sums;
  p.apart = &sum_apart;
  run(ctx, p);
}

}  // namespace trireme::cuda
