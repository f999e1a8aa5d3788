// Hugging Face's GPT-2 to a Trireme checkpoint.
#include <fmt/format.h>

#include <algorithm>
#include <list>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/convert.h"
#include "core/checkpoint/json_text.h"
#include "core/checkpoint/safetensors.h"
#include "core/error.h"
#include "models/hf_gpt2.h"
#include "models/hf_gpt2_tensors.h"
#include "models/model_json.h"
#include "models/presets.h"

namespace trireme {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

json read_json(const fs::path& path) {
  json j = parse_json(read_text(path), path.string());
  if (!j.is_object()) throw ConfigError(path.string() + ": is not a JSON object");
  return j;
}

/// Reads config.json; keys that are absent or null have GPT2Config's defaults.
class HfConfig {
 public:
  explicit HfConfig(const fs::path& path) : path_(path.string()), json_(read_json(path)) {}

  template <class T>
  T get(const char* key, T otherwise) const {
    if (!json_.contains(key) || json_[key].is_null()) return otherwise;
    try {
      return json_[key].get<T>();
    } catch (const json::exception& error) {
      throw ConfigError(fmt::format("{}: '{}': {}", path_, key, error.what()));
    }
  }
  /// ConfigError unless `key` has the only value that Trireme's GPT computes with.
  template <class T>
  void require(const char* key, T wanted, T otherwise) const {
    if (const T got = get<T>(key, otherwise); got != wanted)
      throw ConfigError(fmt::format("{}: '{}' is {}; Trireme's GPT has {}", path_, key, got, wanted));
  }
  const json& raw() const { return json_; }

 private:
  std::string path_;
  json json_;
};

ModelConfig model_config(const HfConfig& hf, int64_t vocab) {
  hf.require<std::string>("model_type", "gpt2", "gpt2");
  if (const auto gelu = hf.get<std::string>("activation_function", "gelu_new"); gelu != "gelu_pytorch_tanh")
    hf.require<std::string>("activation_function", "gelu_new", "gelu_new");  // two names of one function
  hf.require<double>("layer_norm_epsilon", 1e-5, 1e-5);
  hf.require<bool>("scale_attn_weights", true, true);
  hf.require<bool>("scale_attn_by_inverse_layer_idx", false, false);
  hf.require<bool>("add_cross_attention", false, false);

  ModelConfig c;
  c.kind = "gpt";
  c.layers = hf.get<int64_t>("n_layer", 12);
  c.heads = hf.get<int64_t>("n_head", 12);
  c.width = hf.get<int64_t>("n_embd", 768);
  c.ffn = hf.get<int64_t>("n_inner", 0);
  c.context = hf.get<int64_t>("n_positions", 1024);
  c.true_vocab = hf.get<int64_t>("vocab_size", 50257);
  c.vocab = vocab == 0 ? c.true_vocab : vocab;
  c.dropout = hf.get<double>("resid_pdrop", 0.1);
  c.tied = hf.get<bool>("tie_word_embeddings", true);
  return resolve_model(c);
}

/// The tensors of a model's files, by name without prefix.
class HfWeights {
 public:
  explicit HfWeights(const fs::path& folder) {
    for (const fs::path& path : files_of(folder)) {
      const SafetensorsFile& file = files_.emplace_back(path);
      for (const SafetensorsEntry& entry : file->entries())
        if (!tensors_.emplace(without_hf_prefix(entry.name), Found{&entry, path.string()}).second)
          throw ConfigError(fmt::format("{}: there are two tensors '{}'", folder.string(), entry.name));
    }
  }

  const SafetensorsEntry* find(const std::string& name) const {
    const auto found = tensors_.find(without_hf_prefix(name));
    return found == tensors_.end() ? nullptr : found->second.entry;
  }

  const SafetensorsEntry& get(const HfTensor& tensor) const {
    const auto found = tensors_.find(without_hf_prefix(tensor.hf_name));
    if (found == tensors_.end())
      throw ConfigError(fmt::format("no file of the model has the tensor '{}' {}", tensor.hf_name,
                                    to_string(tensor.hf_shape)));
    const auto& [entry, file] = found->second;
    if (entry->shape != tensor.hf_shape || !is_float(entry->dtype))
      throw ConfigError(fmt::format("{}: '{}' is {} {}; by config.json it should be floating-point {}", file,
                                    entry->name, name_of(entry->dtype), to_string(entry->shape),
                                    to_string(tensor.hf_shape)));
    return *entry;
  }

  /// Nothing may be left behind that would change what the model computes.
  void check_all_known(std::span<const HfTensor> known) const {
    std::set<std::string> names{"lm_head.weight"};
    for (const HfTensor& tensor : known) names.insert(without_hf_prefix(tensor.hf_name));
    for (const auto& [name, found] : tensors_)
      if (!names.contains(name) && !is_hf_mask(name))
        throw ConfigError(
            fmt::format("{}: tensor '{}' is not part of GPT-2 with this config.json; Trireme cannot keep it",
                        found.file, found.entry->name));
  }

 private:
  struct Found {
    const SafetensorsEntry* entry;
    std::string file;
  };

  static std::vector<fs::path> files_of(const fs::path& folder) {
    const fs::path one = folder / "model.safetensors", index = folder / "model.safetensors.index.json";
    if (fs::exists(one)) return {one};
    if (!fs::exists(index))
      throw ConfigError(
          fmt::format("{} has neither model.safetensors nor model.safetensors.index.json; save the model "
                      "with transformers' save_pretrained(safe_serialization=True)",
                      folder.string()));
    std::set<fs::path> paths;
    const json j = read_json(index);
    if (!j.contains("weight_map") || !j["weight_map"].is_object())
      throw ConfigError(index.string() + ": has no 'weight_map'");
    for (const auto& [tensor, file] : j["weight_map"].items()) {
      if (!file.is_string() || fs::path(file.get<std::string>()).filename() != file.get<std::string>())
        throw ConfigError(
            fmt::format("{}: the file of '{}' is not a name in this folder", index.string(), tensor));
      paths.insert(folder / file.get<std::string>());
    }
    return {paths.begin(), paths.end()};
  }

  std::list<SafetensorsFile> files_;  // stay where they are: entries are pointed to
  std::map<std::string, Found> tensors_;
};

/// A tied model's file may repeat the embedding as lm_head; another one would be lost.
void check_tied_head(const HfWeights& weights, const ModelConfig& config) {
  const SafetensorsEntry *head = weights.find("lm_head.weight"), *embedding = weights.find("wte.weight");
  if (!config.tied || !head || !embedding) return;
  if (head->dtype != embedding->dtype || !std::ranges::equal(head->bytes, embedding->bytes))
    throw ConfigError(
        "config.json ties the embeddings (tie_word_embeddings), but lm_head.weight differs from wte.weight; "
        "set "
        "\"tie_word_embeddings\": false there if the model has two tables");
}

/// Converts to f32 and Trireme's orientation, and adds the padding of the vocabulary.
void add_tensor(CheckpointWriter& writer, const HfTensor& tensor, const SafetensorsEntry& entry,
                int64_t vocab) {
  Shape shape = tensor.hf_shape;
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  convert_elements(entry.dtype, entry.bytes, DType::f32, std::as_writable_bytes(std::span(values)));
  if (tensor.transposed) {
    std::vector<float> turned(values.size());
    transpose(values, shape[0], shape[1], turned);
    values = std::move(turned);
    shape = {shape[1], shape[0]};
  }
  if (tensor.vocab_rows) {
    shape[0] = vocab;
    values.resize(static_cast<size_t>(shape.numel()), 0.0f);
  }
  writer.add(tensor.name, DType::f32, Slice::whole(shape), std::as_bytes(std::span(values)));
}

/// Where to write: never over a folder that is something else.
CheckpointTarget target_of(const fs::path& checkpoint) {
  fs::path path = fs::absolute(checkpoint).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // a slash at the end
  const bool taken = fs::exists(path) && !(fs::is_directory(path) && fs::is_empty(path));
  if (taken && !fs::exists(path / kManifestName))
    throw ConfigError(fmt::format("{} exists and is not a checkpoint; name a new folder", path.string()));
  CheckpointTarget target;
  target.root = path.parent_path();
  target.name = path.filename();
  return target;
}

}  // namespace

ModelConfig import_hf_gpt2(const fs::path& folder, const fs::path& checkpoint, int64_t vocab) {
  const HfConfig hf(folder / "config.json");
  const ModelConfig config = model_config(hf, vocab);
  const HfWeights weights(folder);
  const std::vector<HfTensor> tensors = hf_gpt2_tensors(config);
  weights.check_all_known(tensors);
  check_tied_head(weights, config);
  for (const HfTensor& tensor : tensors) weights.get(tensor);  // all checked before anything is written

  CheckpointWriter writer(target_of(checkpoint));
  for (const HfTensor& tensor : tensors) add_tensor(writer, tensor, weights.get(tensor), config.vocab);
  writer.set_section("model", model_to_json(config));
  writer.set_section("hugging_face", hf.raw());
  writer.commit();
  return config;
}

}  // namespace trireme
