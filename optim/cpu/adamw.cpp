// AdamW on the host: seven passes of memory (weights, gradient and both moments in; weights and moments out).
#include <cmath>

#include "optim/cpu/flat_update.h"
#include "optim/cpu/kernels.h"

namespace trireme::cpu {
namespace {

void adamw(Context& ctx, const AdamwSettings& settings, FlatUpdate& update, const Tensor& control_tensor,
           const Tensor& applied_steps, Tensor& exp_avg, Tensor& exp_avg_sq) {
  const StepControl control = control_of(control_tensor);
  if (control.apply == 0.0f) return;
  const auto t = static_cast<double>(applied_steps.item<int64_t>());
  const auto step_size = static_cast<float>(control.lr / (1.0 - std::pow(settings.beta1, t)));
  const auto root_scale = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(settings.beta2, t)));
  const auto beta1 = static_cast<float>(settings.beta1), beta2 = static_cast<float>(settings.beta2);
  const auto rest1 = static_cast<float>(1.0 - settings.beta1),
             rest2 = static_cast<float>(1.0 - settings.beta2);
  const auto eps = static_cast<float>(settings.eps);
  float* m = exp_avg.data<float>();
  float* v = exp_avg_sq.data<float>();
  flat_update(ctx, update, control, [=](int64_t i, float g) {
    const float m_next = beta1 * m[i] + rest1 * g;
    const float v_next = beta2 * v[i] + rest2 * (g * g);
    m[i] = m_next;
    v[i] = v_next;
    return step_size * m_next / (std::sqrt(v_next) * root_scale + eps);
  });
}

}  // namespace

void add_adamw_kernel(Backend& backend) {
  backend.add_kernel<AdamwKernel>(&adamw);
}

}  // namespace trireme::cpu
