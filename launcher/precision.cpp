#include "launcher/precision.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "core/error.h"

namespace trireme {

DType compute_dtype(const PrecisionConfig& config) {
  return config.compute == "tf32" ? DType::f32 : parse_dtype(config.compute);
}

DType reduce_dtype(const PrecisionConfig& config) {
  return config.reduce == "compute" ? compute_dtype(config) : DType::f32;
}

LossScaleSettings loss_scale_settings(const PrecisionConfig& config) {
  LossScaleSettings settings;
  const std::string& word = config.loss_scale;
  settings.dynamic = word == "dynamic" || (word == "auto" && config.compute == "f16");
  settings.growth_factor = config.growth_factor;
  settings.growth_interval = config.growth_interval;
  settings.backoff = config.backoff;
  settings.minimum = config.min_scale;
  if (settings.dynamic) {
    settings.initial = config.initial_scale;
  } else if (word != "auto" && word != "none") {
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), settings.initial);
    if (error != std::errc() || end != word.data() + word.size())
      throw ConfigError(fmt::format("precision.loss_scale: wanted auto, none, dynamic or a factor such as 1024, got '{}'", word));
    if (!(settings.initial > 0.0) || !std::isfinite(settings.initial))
      throw ConfigError(fmt::format("precision.loss_scale: wanted a factor above 0, got {}", word));
  }
  check_loss_scale(settings);
  return settings;
}

void check_master(const PrecisionConfig& config) {
  if (config.master || config.compute == "bf16") return;
  const bool f16 = config.compute == "f16";
  throw ConfigError(fmt::format("precision.master: false rounds bf16 weights at random, and precision.compute is {}: {}; set compute "
                                "to bf16, or master to true",
                                config.compute,
                                f16 ? "f16 lacks the small numbers that weights and updates reach, and its rounding is no cut of f32's bits"
                                    : "f32 weights are their own masters, so there is no copy to leave out"));
}

void check_precision(const PrecisionConfig& config, Device device) {
  if (device.kind == DeviceKind::cpu && (config.compute == "tf32" || config.compute == "f16"))
    throw ConfigError(fmt::format("precision.compute: {} needs a GPU, and this run is on the CPU, which offers f32 and bf16; "
                                  "set one of those, or run.device to cuda",
                                  config.compute));
}

}  // namespace trireme
