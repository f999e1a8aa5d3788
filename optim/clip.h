// UpdateGuard: looks at the global gradient norm and the loss of a step, and decides on the device whether
// the step is applied and by what the gradient is multiplied: clipping, un-scaling, skipping of non-finite
// steps and outliers.
#pragma once

#include "optim/kernels.h"
#include "optim/loss_scale.h"
#include "optim/optim_config.h"
#include "optim/optimizer.h"

namespace trireme {

class UpdateGuard {
 public:
  /// Of the layout of `stats`, f32 [kStats]: summed over all ranks before decide(), so that all decide alike.
  enum Stat : int64_t { sum_squares, not_finite, loss, kStats };

  /// ConfigError when clip, skip_zscore, skip_window or a loss scale setting is out of its range.
  UpdateGuard(Context& ctx, const OptimConfig& config, const LossScaleSettings& loss_scale = {});

  /// Queues the learning rate of the step that the next decide() is about.
  void set_learning_rate(Context& ctx, double lr);
  /// f32 [1], for Context::loss_scale: what the gradients that decide() looks at are too large by.
  Tensor loss_scale() const { return control_.flat_view(StepControl::kLossScale, {1}); }

  /// Writes the control of one step and returns it; the address stays the same.
  ///   norm       = sqrt(stats[sum_squares]) / loss scale
  ///   multiplier = min(1, clip / norm) / loss scale  (clip 0: no limit)
  ///   apply      = 1 when not_finite is 0, norm and loss are finite, and neither is an outlier
  /// An outlier lies more than skip_zscore standard deviations above the mean of the last skip_window finite
  /// steps (once there are so many). Outliers enter the window too, so a lasting change is accepted after a
  /// while. A dynamic loss scale then takes its next value.
  const Tensor& decide(Context& ctx, const Tensor& stats);

  const Tensor& control() const { return control_; }
  /// What a resumed run needs; empty when outliers are not looked for and the loss scale is fixed.
  std::vector<OptimizerState::Scalar> state() const;

 private:
  GuardSettings settings_;
  Tensor control_;
  Tensor history_;  // f32 [2, window]
  Tensor seen_;     // i64 [1]
};

}  // namespace trireme
