// SGD on a GPU, plain, with momentum, or with Nesterov's.
#include "optim/cuda/flat_update.cuh"
#include "optim/cuda/kernels.h"

namespace trireme::cuda {
namespace {

struct Constants {
  float lr;
};

struct PlainRule {
  static constexpr int kSlots = 0;
  using Constants = cuda::Constants;
  __device__ Constants constants(const StepControl& control, int64_t) const { return {control.lr}; }
  __device__ float step(const Constants& c, float g, float*) const { return c.lr * g; }
};

struct MomentumRule {
  static constexpr int kSlots = 1;
  using Constants = cuda::Constants;
  float mu;
  bool nesterov;
  __device__ Constants constants(const StepControl& control, int64_t) const { return {control.lr}; }
  __device__ float step(const Constants& c, float g, float* slots) const {
    slots[0] = mu * slots[0] + g;
    return c.lr * (nesterov ? g + mu * slots[0] : slots[0]);
  }
};

void sgd(Context& ctx, const SgdSettings& settings, FlatUpdate& update, const Tensor& control, Tensor& momentum) {
  if (!momentum.defined()) return flat_update(ctx, "sgd", update, control, {}, {}, PlainRule{});
  flat_update(ctx, "sgd", update, control, {}, {momentum}, MomentumRule{static_cast<float>(settings.momentum), settings.nesterov});
}

}  // namespace

void add_sgd_kernel(Backend& backend) { backend.add_kernel<SgdKernel>(&sgd); }

}  // namespace trireme::cuda
