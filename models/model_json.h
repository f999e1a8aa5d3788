// A model's config as JSON: the `model` section of a checkpoint, from which the model can be built again.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "models/model_config.h"

namespace trireme {

nlohmann::json model_to_json(const ModelConfig& config);
/// ConfigError naming `source` when a field is missing or of another type; the result is resolved and checked.
ModelConfig model_from_json(const nlohmann::json& json, const std::string& source);

}  // namespace trireme
