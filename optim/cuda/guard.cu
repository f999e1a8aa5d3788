// The decision about a step on the GPU, by one thread: clip, skip, the loss scale, and the window of losses and norms that
// outliers stand out of.
#include "core/backend/cuda/device.cuh"
#include "optim/clip.h"
#include "optim/cuda/flat_update.cuh"
#include "optim/cuda/kernels.h"

namespace trireme::cuda {
namespace {

__device__ bool is_outlier(float value, const float* window, int64_t count, double zscore) {
  const auto n = static_cast<double>(count);
  double sum = 0.0, squares = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += window[i];
  const double mean = sum / n;
  for (int64_t i = 0; i < count; ++i) squares += (window[i] - mean) * (window[i] - mean);
  return value > mean + zscore * sqrt(squares / n);
}

/// The scale of the next step, after one whose gradient was finite or not.
__device__ void update_loss_scale(const LossScaleSettings& settings, bool finite, StepControl& control) {
  control.used_scale = control.loss_scale;
  if (!settings.dynamic) return;
  if (!finite) {
    control.loss_scale = static_cast<float>(fmax(settings.minimum, control.loss_scale * settings.backoff));
    control.good_steps = 0.0f;
  } else if (++control.good_steps >= static_cast<float>(settings.growth_interval)) {
    control.loss_scale = static_cast<float>(fmin(settings.maximum, control.loss_scale * settings.growth_factor));
    control.good_steps = 0.0f;
  }
}

__global__ void guard_kernel(GuardSettings settings, const float* stats, float* history, int64_t* seen, StepControl* out) {
  const float loss = stats[UpdateGuard::loss];
  StepControl control = *out;
  control.grad_norm = sqrtf(stats[UpdateGuard::sum_squares]) / control.loss_scale;
  const bool clip = settings.clip > 0.0 && control.grad_norm > settings.clip;
  const double shorten = clip ? settings.clip / control.grad_norm : 1.0;
  control.multiplier = static_cast<float>(shorten / control.loss_scale);
  control.clipped = clip ? 1.0f : 0.0f;

  auto reason = SkipReason::none;
  if (stats[UpdateGuard::not_finite] != 0.0f || !isfinite(control.grad_norm) || !isfinite(loss)) {
    reason = SkipReason::not_finite;
  } else if (history) {
    float *losses = history, *norms = history + settings.window;
    const int64_t count = *seen, at = count % settings.window;
    if (count >= settings.window && (is_outlier(loss, losses, settings.window, settings.skip_zscore) ||
                                     is_outlier(control.grad_norm, norms, settings.window, settings.skip_zscore)))
      reason = SkipReason::outlier;
    losses[at] = loss;
    norms[at] = control.grad_norm;
    *seen = count + 1;
  }
  control.apply = reason == SkipReason::none ? 1.0f : 0.0f;
  control.skip_reason = static_cast<float>(reason);
  update_loss_scale(settings.loss_scale, reason != SkipReason::not_finite, control);
  *out = control;
}

__global__ void count_step_kernel(const StepControl* control, int64_t* applied_steps) {
  if (control->apply != 0.0f) ++*applied_steps;
}

void guard(Context& ctx, const GuardSettings& settings, const Tensor& stats, Tensor& history, Tensor& seen, Tensor& control) {
  guard_kernel<<<1, 1, 0, raw_stream(ctx)>>>(settings, elements<float>(stats), elements<float>(history), elements<int64_t>(seen),
                                            reinterpret_cast<StepControl*>(elements<float>(control)));
  check_launch("guard");
}

void count_step(Context& ctx, const Tensor& control, Tensor& applied_steps) {
  count_step_kernel<<<1, 1, 0, raw_stream(ctx)>>>(reinterpret_cast<const StepControl*>(elements<float>(control)),
                                                 elements<int64_t>(applied_steps));
  check_launch("count of steps");
}

}  // namespace

void add_guard_kernel(Backend& backend) {
  backend.add_kernel<GuardKernel>(&guard);
  backend.add_kernel<CountStepKernel>(&count_step);
}

}  // namespace trireme::cuda
