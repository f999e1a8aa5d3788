// Lion on the host: five passes of memory.
#include "optim/cpu/flat_update.h"
#include "optim/cpu/kernels.h"

namespace trireme::cpu {
namespace {

void lion(Context& ctx, const LionSettings& settings, FlatUpdate& update, const Tensor& control_tensor,
          Tensor& exp_avg) {
  const StepControl control = control_of(control_tensor);
  if (control.apply == 0.0f) return;
  const float lr = control.lr;
  const auto beta1 = static_cast<float>(settings.beta1), beta2 = static_cast<float>(settings.beta2);
  const auto rest1 = static_cast<float>(1.0 - settings.beta1),
             rest2 = static_cast<float>(1.0 - settings.beta2);
  float* m = exp_avg.data<float>();
  flat_update(ctx, update, control, [=](int64_t i, float g) {
    const float c = beta1 * m[i] + rest1 * g;
    m[i] = beta2 * m[i] + rest2 * g;
    return c > 0.0f ? lr : c < 0.0f ? -lr : 0.0f;
  });
}

}  // namespace

void add_lion_kernel(Backend& backend) {
  backend.add_kernel<LionKernel>(&lion);
}

}  // namespace trireme::cpu
