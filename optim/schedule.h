// Learning-rate schedules: a step's learning rate as a function of the step alone.
#pragma once

#include <cstdint>

#include "optim/optim_config.h"

namespace trireme {

/// The learning rate of `step`, counted from 1, of a run of `total_steps`. With s the step, n the total, w
/// the warm-up, f the share `final`, and clamp to [0, 1]:
///   warm(s)      = min(1, s / w), 1 when w is 0
///   progress     = clamp((s - w) / (n - w)), 0 when w >= n
///   constant     lr warm
///   linear       lr warm (1 - (1 - f) progress)
///   cosine       lr warm (f + (1 - f) (1 + cos(pi progress)) / 2)
///   wsd          lr warm (1 - (1 - f) clamp((s - (n - d)) / d)): warm-up, stable, and a linear decay over
///   the last
///                d = `decay` steps, or max(1, n / 10) when that is 0 (Hu et al., "MiniCPM", 2024)
///   inverse_sqrt lr warm sqrt(max(w, 1) / max(s, w, 1)); `final` is not used (Vaswani et al., 2017)
/// Past the end the last value holds, except for inverse_sqrt, which goes on. ConfigError as
/// check_schedule().
double learning_rate(const OptimConfig& config, int64_t step, int64_t total_steps);

/// ConfigError when the kind is unknown, or lr, warmup, final or decay is out of its range.
void check_schedule(const OptimConfig& config);

}  // namespace trireme
