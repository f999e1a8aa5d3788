#include "optim/loss_scale.h"

#include <fmt/format.h>

#include <cmath>

#include "core/error.h"

namespace trireme {
namespace {

/// It is held as f32, and gradients are to fit beside it.
constexpr double kLargestScale = 0x1p127;

}  // namespace

void check_loss_scale(const LossScaleSettings& s) {
  if (!(s.initial > 0.0 && s.initial <= kLargestScale))
    throw ConfigError(fmt::format("precision.{}: wanted a factor above 0 and no more than {:.1e}, got {}",
                                  s.dynamic ? "initial_scale" : "loss_scale", kLargestScale, s.initial));
  if (!s.dynamic) return;
  if (!(s.growth_factor >= 1.0) || !std::isfinite(s.growth_factor))
    throw ConfigError(fmt::format("precision.growth_factor: wanted 1 or more, got {}; 2 is usual", s.growth_factor));
  if (!(s.backoff > 0.0 && s.backoff < 1.0))
    throw ConfigError(fmt::format("precision.backoff: wanted a factor between 0 and 1, got {}; 0.5 is usual", s.backoff));
  if (s.growth_interval < 1)
    throw ConfigError(fmt::format("precision.growth_interval: wanted 1 step or more, got {}; 2000 is usual", s.growth_interval));
  if (!(s.minimum > 0.0 && s.minimum <= s.initial))
    throw ConfigError(fmt::format("precision.min_scale: wanted more than 0 and no more than the initial scale {}, got {}",
                                  s.initial, s.minimum));
}

}  // namespace trireme
