#include "models/model.h"

#include "models/gpt.h"

namespace trireme {

double Model::flops_per_token(int64_t tokens) const {
  return 6.0 * static_cast<double>(num_parameters()) +
         12.0 * static_cast<double>(config_.layers * config_.width * tokens);
}

std::unique_ptr<Model> make_model(const ModelConfig& config, const ModelLayout& layout) {
  if (config.kind == "gpt") return std::make_unique<Gpt>(config, layout);
  throw ConfigError("model.kind '" + config.kind + "' is not known; the kinds are: gpt");
}

}  // namespace trireme
