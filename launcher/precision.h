// The `precision` section: which number formats a run computes and reduces in, and how its loss is scaled.
#pragma once

#include <cstdint>
#include <string>

#include "core/device.h"
#include "core/dtype.h"
#include "optim/loss_scale.h"

namespace trireme {

struct PrecisionConfig {
  std::string compute = "f32";      // f32 | tf32 | bf16 | f16
  std::string reduce = "f32";       // f32 | compute
  bool master = true;               // the optimizer keeps f32 masters of bf16 and f16 weights
  std::string loss_scale = "auto";  // auto | none | dynamic | a fixed factor
  double initial_scale = 65536.0;   // of a dynamic scale
  double growth_factor = 2.0;
  int64_t growth_interval = 2000;  // steps
  double backoff = 0.5;
  double min_scale = 1.0;
};

/// The type of parameters and activations; TF32 is a way to multiply f32.
DType compute_dtype(const PrecisionConfig& config);
/// The type in which gradients are exchanged.
DType reduce_dtype(const PrecisionConfig& config);
/// `auto` is dynamic with f16, whose small gradients would be lost, and none otherwise. ConfigError when loss_scale is
/// neither a known word nor a number, or a setting is out of its range.
LossScaleSettings loss_scale_settings(const PrecisionConfig& config);
/// ConfigError when master is false with a type of weights that isn't rounded at random.
void check_master(const PrecisionConfig& config);
/// ConfigError when a device of this kind does not compute in it.
void check_precision(const PrecisionConfig& config, Device device);

}  // namespace trireme
