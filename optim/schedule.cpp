#include "optim/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/text.h"

namespace trireme {
namespace {

// What is left of the peak rate after `progress` of the decay: 1 at 0, `final` at 1.
double decayed_linear(double progress, double final) {
  return 1.0 - (1.0 - final) * progress;
}
double decayed_cosine(double progress, double final) {
  return final + (1.0 - final) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
}

double clamp01(double x) {
  return std::clamp(x, 0.0, 1.0);
}

}  // namespace

void check_schedule(const OptimConfig& config) {
  const ScheduleConfig& schedule = config.schedule;
  const std::vector<std::string> kinds{"constant", "linear", "cosine", "wsd", "inverse_sqrt"};
  if (std::ranges::find(kinds, schedule.kind) == kinds.end()) {
    const std::string nearest = nearest_name(schedule.kind, kinds);
    throw ConfigError(
        fmt::format("optim.schedule.kind: '{}' is none of constant, linear, cosine, wsd, inverse_sqrt{}",
                    schedule.kind, nearest.empty() ? "" : "; did you mean " + nearest + "?"));
  }
  if (!(config.lr >= 0.0) || !std::isfinite(config.lr))
    throw ConfigError(fmt::format("optim.lr: wanted a number of 0 or more, got {}", config.lr));
  if (schedule.warmup < 0)
    throw ConfigError(fmt::format("optim.schedule.warmup: wanted 0 steps or more, got {}", schedule.warmup));
  if (!(schedule.final >= 0.0 && schedule.final <= 1.0))
    throw ConfigError(
        fmt::format("optim.schedule.final: wanted a share of the peak rate from 0 to 1, got {}; "
                    "it is no learning rate but what that is multiplied by",
                    schedule.final));
  if (schedule.decay < 0)
    throw ConfigError(fmt::format("optim.schedule.decay: wanted 0 (a tenth of the run) or more steps, got {}",
                                  schedule.decay));
}

double learning_rate(const OptimConfig& config, int64_t step, int64_t total_steps) {
  check_schedule(config);
  TRIREME_ASSERT(step >= 1 && total_steps >= 1,
                 fmt::format("learning rate of step {} of {}", step, total_steps));
  const ScheduleConfig& schedule = config.schedule;
  const auto s = static_cast<double>(step);
  const auto n = static_cast<double>(total_steps);
  const auto w = static_cast<double>(schedule.warmup);
  const double warm_lr = config.lr * (w > 0.0 ? std::min(1.0, s / w) : 1.0);
  const double progress = w < n ? clamp01((s - w) / (n - w)) : 0.0;

  if (schedule.kind == "linear") return warm_lr * decayed_linear(progress, schedule.final);
  if (schedule.kind == "cosine") return warm_lr * decayed_cosine(progress, schedule.final);
  if (schedule.kind == "wsd") {
    const int64_t decay_steps = schedule.decay > 0 ? schedule.decay : std::max<int64_t>(1, total_steps / 10);
    const auto d = static_cast<double>(decay_steps);
    return warm_lr * decayed_linear(clamp01((s - (n - d)) / d), schedule.final);
  }
  if (schedule.kind == "inverse_sqrt") return warm_lr * std::sqrt(std::max(w, 1.0) / std::max({s, w, 1.0}));
  return warm_lr;
}

}  // namespace trireme
