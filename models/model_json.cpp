#include "models/model_json.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "models/presets.h"

namespace trireme {
namespace {

// The one list of the fields, for both directions.
template <class Config, class Visitor>
void each_field(Config& c, Visitor&& visit) {
  visit("kind", c.kind);
  visit("layers", c.layers);
  visit("heads", c.heads);
  visit("kv_heads", c.kv_heads);
  visit("width", c.width);
  visit("ffn", c.ffn);
  visit("context", c.context);
  visit("vocab", c.vocab);
  visit("true_vocab", c.true_vocab);
  visit("dropout", c.dropout);
  visit("bias", c.bias);
  visit("tied", c.tied);
}

}  // namespace

nlohmann::json model_to_json(const ModelConfig& config) {
  nlohmann::json json;
  each_field(config, [&](const char* name, const auto& value) { json[name] = value; });
  return json;
}

ModelConfig model_from_json(const nlohmann::json& json, const std::string& source) {
  ModelConfig config;
  each_field(config, [&](const char* name, auto& value) {
    try {
      json.at(name).get_to(value);
    } catch (const nlohmann::json::exception& e) {
      throw ConfigError(source + ": section model, field " + name + ": " + e.what());
    }
  });
  return resolve_model(config);
}

}  // namespace trireme
