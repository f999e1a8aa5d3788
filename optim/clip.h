// UpdateGuard: looks at the global gradient norm and the loss of a step, and decides on the device whether
// the step is applied and by what the gradient is multiplied: clipping, un-scaling, skipping of non-finite
// steps and outliers.
#pragma once

#include "optim/kernels.h"
#include "optim/optim_config.h"
#include "optim/optimizer.h"

namespace trireme {

class UpdateGuard {
 public:
  /// Of the layout of `stats`, f32 [kStats]: summed over all ranks before decide(), so that all decide alike.
  enum Stat : int64_t { sum_squares, not_finite, loss, kStats };

  /// ConfigError when clip, skip_zscore or skip_window is out of its range.
  UpdateGuard(Context& ctx, const OptimConfig& config);

  /// Writes the control of one step and returns it; the address stays the same.
  ///   norm       = sqrt(stats[sum_squares]) / ctx.loss_scale
  ///   multiplier = min(1, clip / norm) / ctx.loss_scale  (clip 0: no limit)
  ///   apply      = 1 when not_finite is 0, norm and loss are finite, and neither is an outlier
  /// An outlier lies more than skip_zscore standard deviations above the mean of the last skip_window finite
  /// steps (once there are so many). Outliers enter the window too, so a lasting change is accepted after a
  /// while.
  const Tensor& decide(Context& ctx, const Tensor& stats, double lr);

  const Tensor& control() const { return control_; }
  /// What a resumed run needs; empty when outliers are not looked for.
  std::vector<OptimizerState::Scalar> state() const;

 private:
  GuardSettings settings_;
  Tensor control_;
  Tensor history_;  // f32 [2, window]
  Tensor seen_;     // i64 [1]
};

}  // namespace trireme
