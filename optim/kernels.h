// The kernels that a device needs to run the optimizers, and their registration. Each reads the control
// tensor on the device and does nothing when its `apply` is 0.
#pragma once

#include <cstdint>

#include "core/context.h"
#include "optim/loss_scale.h"
#include "optim/step_control.h"
#include "optim/stochastic_rounding.h"

namespace trireme {

/// Elements [begin, end) of a shard, all with weight decay or all without. A table of them is i64 [R, 3].
struct DecayRun {
  int64_t begin, end;
  int64_t decays;  // 0 or 1
  static constexpr int64_t kSize = 3;
};
static_assert(sizeof(DecayRun) == DecayRun::kSize * sizeof(int64_t));

/// What every element-wise update works on: w -= lr wd w + update(g multiplier), and `rounded` = w. With `rest`, w is the
/// master of which `weights` is one half (optim/split_master.h). With `places`, w is computed in f32 from bf16 and rounded
/// at random.
struct FlatUpdate {
  Tensor weights;  // f32 [n]: a shard's data, or the master copy of it; with `rest` or `places`, bf16 [n]: the data
  Tensor rounded;  // the shard's data when it is of a lower precision than f32; otherwise undefined
  Tensor grad;     // f32 [n]
  Tensor runs;     // i64 [R, 3], DecayRuns that cover all but padding
  double weight_decay = 0.0;
  Tensor places = {};         // i64 [R, 5], the RunPlace of each run; undefined when nothing is rounded at random
  Tensor applied_steps = {};  // i64 [1] with `places`: counts this step already
  Tensor rest = {};           // u16 [n], the other half of masters; undefined where there are none, or whole ones
};

/// applied_steps i64 [1] += 1 when the step is applied; runs before the updates of a step.
struct CountStepKernel {
  using Fn = void(Context&, const Tensor& control, Tensor& applied_steps);
};

struct AdamwSettings {
  double beta1, beta2, eps;
};
/// `applied_steps` counts this step already.
struct AdamwKernel {
  using Fn = void(Context&, const AdamwSettings&, FlatUpdate&, const Tensor& control,
                  const Tensor& applied_steps, Tensor& exp_avg, Tensor& exp_avg_sq);
};

struct SgdSettings {
  double momentum;
  bool nesterov;
};
/// `momentum` undefined: plain gradient descent.
struct SgdKernel {
  using Fn = void(Context&, const SgdSettings&, FlatUpdate&, const Tensor& control, Tensor& momentum);
};

struct LionSettings {
  double beta1, beta2;
};
struct LionKernel {
  using Fn = void(Context&, const LionSettings&, FlatUpdate&, const Tensor& control, Tensor& exp_avg);
};

/// Adafactor as in the paper's section 9 without relative step sizes, parameter scaling and momentum: the
/// learning rate is the configured one, the decay rate of the second moments is b_t = 1 - t^decay_power, and
/// an update of root mean square above `clip_threshold` is scaled down to it.
struct AdafactorSettings {
  double eps = 1e-30;  // added to the squared gradient
  double clip_threshold = 1.0;
  double decay_power = -0.8;
};
/// One whole parameter: weights f32 [A, R, C] and grad the same, rounded the same or undefined.
/// With s = g^2 + eps:
///   row [A, R] = b row + (1-b) mean of s over C ; col [A, C] = b col + (1-b) mean of s over R
///   u = g / sqrt(row col / mean(row)) ; w -= lr u / max(1, rms(u) / clip_threshold), rms over the parameter
/// `col` undefined: not factored, R = 1, row [A, C] = b row + (1-b) s and u = g / sqrt(row).
/// `scratch` f32 has at least adafactor_scratch_numel() elements.
struct AdafactorKernel {
  using Fn = void(Context&, const AdafactorSettings&, FlatUpdate&, const Tensor& control,
                  const Tensor& applied_steps, Tensor& row, Tensor& col, Tensor& scratch);
};
int64_t adafactor_scratch_numel(const Shape& shape_ARC);

struct GuardSettings {
  double clip = 0.0;         // 0: no clipping
  double skip_zscore = 0.0;  // 0: outliers are not looked for
  int64_t window = 0;
  LossScaleSettings loss_scale;
};
/// From stats f32 [3] {sum of squares of the gradient, elements not finite, loss} and the control's lr,
/// loss_scale and good_steps: the rest of the control, and the next loss_scale and good_steps. `history` f32 [2, window] are the losses and norms of the last steps,
/// `seen` i64 [1] counts the steps ever put there; both undefined when outliers are not looked for.
struct GuardKernel {
  using Fn = void(Context&, const GuardSettings&, const Tensor& stats, Tensor& history, Tensor& seen,
                  Tensor& control);
};

/// Adds the kernels of this folder for the backend's device; ConfigError when there are none for it.
void register_optimizer_kernels(Backend& backend);

}  // namespace trireme
