// SGD on the host, plain, with momentum, or with Nesterov's.
#include "optim/cpu/flat_update.h"
#include "optim/cpu/kernels.h"

namespace trireme::cpu {
namespace {

void sgd(Context& ctx, const SgdSettings& settings, FlatUpdate& update, const Tensor& control_tensor,
         Tensor& momentum) {
  const StepControl control = control_of(control_tensor);
  if (control.apply == 0.0f) return;
  const float lr = control.lr;
  if (!momentum.defined()) return flat_update(ctx, update, control, [=](int64_t, float g) { return lr * g; });
  const auto mu = static_cast<float>(settings.momentum);
  float* m = momentum.data<float>();
  if (settings.nesterov)
    return flat_update(ctx, update, control, [=](int64_t i, float g) {
      m[i] = mu * m[i] + g;
      return lr * (g + mu * m[i]);
    });
  flat_update(ctx, update, control, [=](int64_t i, float g) {
    m[i] = mu * m[i] + g;
    return lr * m[i];
  });
}

}  // namespace

void add_sgd_kernel(Backend& backend) {
  backend.add_kernel<SgdKernel>(&sgd);
}

}  // namespace trireme::cpu
