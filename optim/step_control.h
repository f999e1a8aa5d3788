// StepControl: what one optimizer step obeys, decided on the device. UpdateGuard writes it (optim/clip.h),
// the optimizers' kernels read it, and the host only looks at it for its reports: no step waits for the host.
#pragma once

#include <cstdint>

#include "core/context.h"

namespace trireme {

enum class SkipReason : uint8_t { none, not_finite, outlier };

/// The layout of a control tensor, f32 [StepControl::kSize].
struct StepControl {
  float multiplier = 1.0f;   // of the gradient: clipping and un-scaling in one factor
  float apply = 1.0f;        // 0: the step is skipped, and neither weights nor state may change
  float lr = 0.0f;           // learning rate; written by the host before the decision
  float loss_scale = 1.0f;   // the gradient is this many times too large; the decision sets the next step's
  float good_steps = 0.0f;   // steps in a row without overflow, since the loss scale last grew
  float grad_norm = 0.0f;    // of the un-scaled gradient, before clipping
  float clipped = 0.0f;      // 1: the gradient was longer than the clip
  float skip_reason = 0.0f;  // a SkipReason
  float used_scale = 1.0f;   // the loss scale of this step

  static constexpr int64_t kSize = 9;
  static constexpr int64_t kLr = 2;         // the slot of lr, which the host writes
  static constexpr int64_t kLossScale = 3;  // the slots of loss_scale and good_steps, which outlive the step
  SkipReason reason() const { return static_cast<SkipReason>(static_cast<int>(skip_reason)); }
};
static_assert(sizeof(StepControl) == StepControl::kSize * sizeof(float));

/// A control tensor of this device with the given contents.
Tensor make_control(Context& ctx, const StepControl& control);
/// The contents of a control tensor; waits for the stream.
StepControl read_control(Context& ctx, const Tensor& control);

}  // namespace trireme
