// AdamW on a GPU.
#include "optim/cuda/flat_update.cuh"
#include "optim/cuda/kernels.h"

namespace trireme::cuda {
namespace {

struct AdamwRule {
  static constexpr int kSlots = 2;  // exp_avg, exp_avg_sq
  struct Constants {
    float step_size, root_scale;
  };
  double beta1_exact, beta2_exact;
  float beta1, beta2, rest1, rest2, eps;

  __device__ Constants constants(const StepControl& control, int64_t steps) const {
    const auto t = static_cast<double>(steps);
    return {static_cast<float>(control.lr / (1.0 - pow(beta1_exact, t))), static_cast<float>(1.0 / sqrt(1.0 - pow(beta2_exact, t)))};
  }
  __device__ float step(const Constants& c, float g, float* slots) const {
    slots[0] = beta1 * slots[0] + rest1 * g;
    slots[1] = beta2 * slots[1] + rest2 * (g * g);
    return c.step_size * slots[0] / (sqrtf(slots[1]) * c.root_scale + eps);
  }
};

void adamw(Context& ctx, const AdamwSettings& s, FlatUpdate& update, const Tensor& control, const Tensor& applied_steps,
           Tensor& exp_avg, Tensor& exp_avg_sq) {
  const AdamwRule rule{s.beta1,
                       s.beta2,
                       static_cast<float>(s.beta1),
                       static_cast<float>(s.beta2),
                       static_cast<float>(1.0 - s.beta1),
                       static_cast<float>(1.0 - s.beta2),
                       static_cast<float>(s.eps)};
  flat_update(ctx, "adamw", update, control, applied_steps, {exp_avg, exp_avg_sq}, rule);
}

}  // namespace

void add_adamw_kernel(Backend& backend) { backend.add_kernel<AdamwKernel>(&adamw); }

}  // namespace trireme::cuda
