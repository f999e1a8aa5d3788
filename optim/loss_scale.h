// Loss scaling: gradients of f16 are computed too large by a factor, so that small ones are not lost, and divided
// again in f32 (Micikevicius et al., "Mixed precision training", 2018).
#pragma once

#include <cstdint>

namespace trireme {

/// A dynamic scale is multiplied by `backoff` after a step with a gradient that is not finite, which is skipped, and
/// by `growth_factor` after `growth_interval` steps in a row without one.
struct LossScaleSettings {
  bool dynamic = false;
  double initial = 1.0;
  double growth_factor = 2.0;
  int64_t growth_interval = 2000;  // steps
  double backoff = 0.5;
  double minimum = 1.0;
  double maximum = 16777216.0;  // 2^24: what f32 still counts in ones
};

/// ConfigError when a value is out of its range.
void check_loss_scale(const LossScaleSettings& settings);

}  // namespace trireme
