// Named model sizes for `model.preset`.
#pragma once

#include <span>
#include <string>

#include "models/model_config.h"

namespace trireme {

/// All names that apply_preset() knows.
std::span<const std::string> preset_names();

/// Sets the sizes of `model` to those of the preset `name`; the caller puts what the user gave on top.
/// ConfigError when there is no such preset.
void apply_preset(const std::string& name, ModelConfig& model);

}  // namespace trireme
