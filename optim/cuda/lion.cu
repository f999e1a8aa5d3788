// Lion on a GPU.
#include "optim/cuda/flat_update.cuh"
#include "optim/cuda/kernels.h"

namespace trireme::cuda {
namespace {

struct LionRule {
  static constexpr int kSlots = 1;  // exp_avg
  struct Constants {
    float lr;
  };
  float beta1, beta2, rest1, rest2;
  __device__ Constants constants(const StepControl& control, int64_t) const { return {control.lr}; }
  __device__ float step(const Constants& c, float g, float* slots) const {
    const float direction = beta1 * slots[0] + rest1 * g;
    slots[0] = beta2 * slots[0] + rest2 * g;
    return direction > 0.0f ? c.lr : direction < 0.0f ? -c.lr : 0.0f;
  }
};

void lion(Context& ctx, const LionSettings& s, FlatUpdate& update, const Tensor& control, Tensor& exp_avg) {
  const LionRule rule{static_cast<float>(s.beta1), static_cast<float>(s.beta2), static_cast<float>(1.0 - s.beta1),
                      static_cast<float>(1.0 - s.beta2)};
  flat_update(ctx, "lion", update, control, {}, {exp_avg}, rule);
}

}  // namespace

void add_lion_kernel(Backend& backend) { backend.add_kernel<LionKernel>(&lion); }

}  // namespace trireme::cuda
