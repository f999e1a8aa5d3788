// GPT-2 as Hugging Face's `transformers` keeps it (config.json and model.safetensors), to and from Trireme's
// checkpoints. Weights go bit for bit; what the other side cannot express is a ConfigError.
#pragma once

#include <cstdint>
#include <filesystem>

#include "core/dtype.h"
#include "models/model_config.h"

namespace trireme {

/// Writes the checkpoint folder `checkpoint` (step 0, f32) from the model in `folder`; one safetensors file
/// or several with an index. `vocab` rows of the embedding, the ones after the model's own zero; 0: as many
/// as the model has. An existing checkpoint is replaced, another folder refused. Returns the model's config.
ModelConfig import_hf_gpt2(const std::filesystem::path& folder, const std::filesystem::path& checkpoint,
                           int64_t vocab = 0);

/// Writes config.json and model.safetensors to `folder` from the checkpoint folder. The embedding's padding
/// is cut off; missing biases become zeros, which compute the same.
void export_hf_gpt2(const std::filesystem::path& checkpoint, const std::filesystem::path& folder,
                    DType dtype = DType::f32);

}  // namespace trireme
