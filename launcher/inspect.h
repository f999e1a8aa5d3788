// What `trireme inspect` tells of a path, as JSON; the command prints that, or a text made of it.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace trireme {

struct InspectOptions {
  bool values = true;   // read the elements and tell their statistics
  bool verify = false;  // compare all checksums of checkpoints
};

/// A checkpoint, a folder of them or a run's, a .safetensors file, a folder that `trireme prepare` made, a token
/// shard, a tokenizer's .model or an experiment file; `kind` tells which. ConfigError when it is none, or damaged.
nlohmann::json inspect(const std::filesystem::path& path, const InspectOptions& options);

/// The text for people.
std::string inspection_text(const nlohmann::json& inspection);

// One kind each.
nlohmann::json inspect_checkpoint(const std::filesystem::path& folder, const InspectOptions& options);
nlohmann::json inspect_checkpoints(const std::filesystem::path& folder, const InspectOptions& options);
nlohmann::json inspect_safetensors(const std::filesystem::path& file, const InspectOptions& options);
nlohmann::json inspect_dataset(const std::filesystem::path& folder);
nlohmann::json inspect_shard(const std::filesystem::path& bin_file, const InspectOptions& options);
nlohmann::json inspect_tokenizer(const std::filesystem::path& model_file);
nlohmann::json inspect_config(const std::filesystem::path& yaml_file);

}  // namespace trireme
