// The kernels of mlp: a product, then gelu or its derivative over the result, and the sum of its rows.
#include "core/ops/mlp.h"

#include "core/backend/cpu/column_sum.h"
#include "core/backend/cpu/gemm.h"
#include "core/backend/cpu/kernels.h"
#include "core/ops/gelu.h"

namespace trireme::cpu {
namespace {

void linear_gelu_forward(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& b, Tensor& h, Tensor& a) {
  Tensor& argument = h.defined() ? h : a;
  multiply_nt(ctx, x, w, b, argument);
  ctx.kernel<GeluForward>()(ctx, argument, a);
}

void linear_backward_input_gelu(Context& ctx, const Tensor& dy, const Tensor& w, const Tensor& h, Tensor& dh, Tensor& db) {
  multiply_nn(ctx, dy, w, dh);
  ctx.kernel<GeluBackward>()(ctx, h, dh, dh);
  if (db.defined()) column_sum(ctx, dh, false, db);
}

}  // namespace

void add_mlp_kernels(Backend& backend) {
  backend.add_kernel<LinearGeluForward>(&linear_gelu_forward);
  backend.add_kernel<LinearBackwardInputGelu>(&linear_backward_input_gelu);
}

}  // namespace trireme::cpu
