#include "optim/clip.h"

#include <fmt/format.h>

#include <cmath>

namespace trireme {

UpdateGuard::UpdateGuard(Context& ctx, const OptimConfig& config, const LossScaleSettings& loss_scale)
    : settings_{config.clip, config.skip_zscore, config.skip_window, loss_scale} {
  check_loss_scale(loss_scale);
  StepControl start;
  start.loss_scale = static_cast<float>(loss_scale.initial);
  control_ = make_control(ctx, start);
  if (!(config.clip >= 0.0) || !std::isfinite(config.clip))
    throw ConfigError(
        fmt::format("optim.clip: wanted a gradient norm above 0, or 0 for no limit, got {}", config.clip));
  if (!(config.skip_zscore >= 0.0) || !std::isfinite(config.skip_zscore))
    throw ConfigError(
        fmt::format("optim.skip_zscore: wanted a number of standard deviations, such as 6, or 0 to skip "
                    "no outliers, got {}",
                    config.skip_zscore));
  if (config.skip_zscore == 0.0) return;
  if (config.skip_window < 2)
    throw ConfigError(fmt::format(
        "optim.skip_window: a deviation needs 2 steps or more, got {}; 100 is usual", config.skip_window));
  history_ = ctx.zeros({2, config.skip_window}, DType::f32, MemoryClass::optimizer);
  seen_ = ctx.zeros({1}, DType::i64, MemoryClass::optimizer);
}

void UpdateGuard::set_learning_rate(Context& ctx, double lr) {
  const auto value = static_cast<float>(lr);
  const Tensor slot = control_.flat_view(StepControl::kLr, {1});
  ctx.backend->copy(slot.raw(), &value, sizeof value, *ctx.stream);
}

const Tensor& UpdateGuard::decide(Context& ctx, const Tensor& stats) {
  TRIREME_ASSERT(stats.numel() == kStats && stats.dtype() == DType::f32, "stats are f32 [3]");
  ctx.kernel<GuardKernel>()(ctx, settings_, stats, history_, seen_, control_);
  return control_;
}

std::vector<OptimizerState::Scalar> UpdateGuard::state() const {
  std::vector<OptimizerState::Scalar> state;
  if (history_.defined()) state = {{"guard.history", history_}, {"guard.seen", seen_}};
  if (settings_.loss_scale.dynamic)
    state.push_back({"guard.loss_scale", control_.flat_view(StepControl::kLossScale, {2})});
  return state;
}

}  // namespace trireme
