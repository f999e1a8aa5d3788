// The kernels of linear: matrix products (gemm.h) and the sum of rows (column_sum.h).
#include "core/ops/linear.h"

#include "core/backend/cpu/column_sum.h"
#include "core/backend/cpu/gemm.h"
#include "core/backend/cpu/kernels.h"

namespace trireme::cpu {
namespace {

void linear_forward(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y) {
  multiply_nt(ctx, x, w, b, y);
}

void linear_backward_input(Context& ctx, const Tensor& dy, const Tensor& w, Tensor& dx) {
  multiply_nn(ctx, dy, w, dx);
}

void linear_backward_weight(Context& ctx, const Tensor& x, const Tensor& dy, bool accumulate_w, Tensor& dw,
                            bool accumulate_b, Tensor& db) {
  multiply_tn(ctx, dy, x, accumulate_w, dw);
  if (db.defined()) column_sum(ctx, dy, accumulate_b, db);
}

}  // namespace

void add_linear_kernels(Backend& backend) {
  backend.add_state(std::make_shared<MatmulCache>());
  backend.add_kernel<LinearForward>(&linear_forward);
  backend.add_kernel<LinearBackwardInput>(&linear_backward_input);
  backend.add_kernel<LinearBackwardWeight>(&linear_backward_weight);
}

}  // namespace trireme::cpu
