// Named sizes of models.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/model_config.h"

namespace trireme {

/// Those that apply_preset() knows.
std::vector<std::string> preset_names();

/// Sets the sizes that `name` stands for (gpt2-124m, ...); ConfigError with the nearest name when unknown.
void apply_preset(const std::string& name, ModelConfig& config);

/// The vocabulary of a model for `tokens` of a tokenizer: the next multiple of 64, as matrix products like it.
int64_t padded_vocab(int64_t tokens);

/// Fills in what is left at 0 (kv_heads, ffn) and checks that the sizes fit each other (ConfigError).
/// `vocab` must be set.
ModelConfig resolve_model(ModelConfig config);

}  // namespace trireme
