// The decision about a step on the host: clip, skip, and the window of losses and norms that outliers stand
// out of.
#include <algorithm>
#include <cmath>
#include <span>

#include "optim/clip.h"
#include "optim/cpu/flat_update.h"
#include "optim/cpu/kernels.h"

namespace trireme::cpu {
namespace {

bool is_outlier(float value, std::span<const float> window, double zscore) {
  const auto n = static_cast<double>(window.size());
  double sum = 0.0, squares = 0.0;
  for (float x : window) sum += x;
  const double mean = sum / n;
  for (float x : window) squares += (x - mean) * (x - mean);
  return value > mean + zscore * std::sqrt(squares / n);
}

/// The scale of the next step, after one whose gradient was finite or not.
void update_loss_scale(const LossScaleSettings& settings, bool finite, StepControl& control) {
  control.used_scale = control.loss_scale;
  if (!settings.dynamic) return;
  if (!finite) {
    control.loss_scale = static_cast<float>(std::max(settings.minimum, control.loss_scale * settings.backoff));
    control.good_steps = 0.0f;
  } else if (++control.good_steps >= static_cast<float>(settings.growth_interval)) {
    control.loss_scale = static_cast<float>(std::min(settings.maximum, control.loss_scale * settings.growth_factor));
    control.good_steps = 0.0f;
  }
}

void guard(Context&, const GuardSettings& settings, const Tensor& stats_tensor, Tensor& history, Tensor& seen,
           Tensor& control_tensor) {
  const float* stats = stats_tensor.data<float>();
  const float loss = stats[UpdateGuard::loss];
  StepControl control = control_of(control_tensor);
  control.grad_norm = std::sqrt(stats[UpdateGuard::sum_squares]) / control.loss_scale;
  const bool clip = settings.clip > 0.0 && control.grad_norm > settings.clip;
  const double shorten = clip ? settings.clip / control.grad_norm : 1.0;
  control.multiplier = static_cast<float>(shorten / control.loss_scale);
  control.clipped = clip ? 1.0f : 0.0f;

  auto reason = SkipReason::none;
  if (stats[UpdateGuard::not_finite] != 0.0f || !std::isfinite(control.grad_norm) || !std::isfinite(loss)) {
    reason = SkipReason::not_finite;
  } else if (history.defined()) {
    const std::span<float> losses(history.data<float>(), static_cast<size_t>(settings.window));
    const std::span<float> norms(losses.data() + settings.window, losses.size());
    int64_t& count = *seen.data<int64_t>();
    if (count >= settings.window && (is_outlier(loss, losses, settings.skip_zscore) ||
                                     is_outlier(control.grad_norm, norms, settings.skip_zscore)))
      reason = SkipReason::outlier;
    losses[static_cast<size_t>(count % settings.window)] = loss;
    norms[static_cast<size_t>(count % settings.window)] = control.grad_norm;
    ++count;
  }
  control.apply = reason == SkipReason::none ? 1.0f : 0.0f;
  control.skip_reason = static_cast<float>(reason);
  update_loss_scale(settings.loss_scale, reason != SkipReason::not_finite, control);
  std::copy_n(reinterpret_cast<const float*>(&control), StepControl::kSize, control_tensor.data<float>());
}

void count_step(Context&, const Tensor& control, Tensor& applied_steps) {
  if (control_of(control).apply != 0.0f) ++*applied_steps.data<int64_t>();
}

}  // namespace

void add_guard_kernel(Backend& backend) {
  backend.add_kernel<GuardKernel>(&guard);
  backend.add_kernel<CountStepKernel>(&count_step);
}

}  // namespace trireme::cpu
