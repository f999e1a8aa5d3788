// The kernels of linear and mlp: matrix products with what is fused to them.
#include "core/ops/linear.h"

#include "core/backend/cuda/kernels.h"
#include "core/backend/cuda/matmul.h"
#include "core/backend/cuda/matmul_engine.h"
#include "core/ops/mlp.h"

namespace trireme::cuda {
namespace {

void linear_backward_weight(Context& ctx, const Tensor& x, const Tensor& dy, bool accumulate_w, Tensor& dw,
                            bool accumulate_b, Tensor& db) {
  if (db.defined())
    multiply_tn_and_sum(ctx, dy, x, accumulate_w, dw, accumulate_b, db);
  else
    multiply_tn(ctx, dy, x, accumulate_w, dw);
}

}  // namespace

void add_linear_kernels(Backend& backend, const CudaOptions& options) {
  backend.add_state(std::make_shared<MatmulEngine>(options));
  backend.add_kernel<LinearForward>(&multiply_nt);
  backend.add_kernel<LinearBackwardInput>(&multiply_nn);
  backend.add_kernel<LinearBackwardWeight>(&linear_backward_weight);
}

void add_mlp_kernels(Backend& backend) {
  backend.add_kernel<LinearGeluForward>(&multiply_nt_gelu);
  backend.add_kernel<LinearBackwardInputGelu>(&multiply_nn_gelu_backward);
}

}  // namespace trireme::cuda
