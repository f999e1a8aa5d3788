// A Trireme checkpoint to Hugging Face's GPT-2.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/convert.h"
#include "core/checkpoint/safetensors.h"
#include "core/error.h"
#include "core/files.h"
#include "models/hf_gpt2.h"
#include "models/hf_gpt2_tensors.h"
#include "models/model_json.h"

namespace trireme {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr int64_t kGpt2Vocab = 50257;
constexpr int64_t kGpt2EndOfText = 50256;

std::string torch_name(DType dtype) {
  if (dtype == DType::f32) return "float32";
  if (dtype == DType::bf16) return "bfloat16";
  if (dtype == DType::f16) return "float16";
  throw ConfigError(fmt::format("export: the type {} is not one of f32, bf16, f16", name_of(dtype)));
}

void check_exportable(const ModelConfig& c) {
  if (c.kind != "gpt") throw ConfigError(fmt::format("export: a model of kind '{}' is not a GPT-2", c.kind));
  if (c.kv_heads != c.heads)
    throw ConfigError(
        fmt::format("export: {} key/value heads for {} heads; Hugging Face's GPT-2 has as many of one as "
                    "of the other",
                    c.kv_heads, c.heads));
}

/// The begin and end tokens: an imported model's own, GPT-2's where the vocabulary is GPT-2's, else none.
json special_token(const CheckpointReader& reader, const ModelConfig& config, const char* key) {
  if (reader.has_section("hugging_face")) {
    const json hf = reader.section("hugging_face");
    if (hf.contains(key)) return hf[key];
  }
  return config.true_vocab == kGpt2Vocab ? json(kGpt2EndOfText) : json(nullptr);
}

json hf_config(const CheckpointReader& reader, const ModelConfig& c, DType dtype) {
  return {{"model_type", "gpt2"},
          {"architectures", {"GPT2LMHeadModel"}},
          {"n_layer", c.layers},
          {"n_head", c.heads},
          {"n_embd", c.width},
          {"n_inner", c.ffn == 4 * c.width ? json(nullptr) : json(c.ffn)},
          {"n_positions", c.context},
          {"vocab_size", c.true_vocab},
          {"activation_function", "gelu_new"},
          {"layer_norm_epsilon", 1e-5},
          {"tie_word_embeddings", c.tied},
          {"resid_pdrop", c.dropout},
          {"embd_pdrop", c.dropout},
          {"attn_pdrop", 0.0},  // Trireme drops nothing of the attention's weights
          {"bos_token_id", special_token(reader, c, "bos_token_id")},
          {"eos_token_id", special_token(reader, c, "eos_token_id")},
          {"torch_dtype", torch_name(dtype)}};
}

/// The tensor in f32 and Hugging Face's orientation, without the vocabulary's padding.
std::vector<float> read_tensor(CheckpointReader& reader, const HfTensor& tensor, int64_t vocab) {
  const Shape& hf = tensor.hf_shape;
  std::vector<float> values(static_cast<size_t>(hf.numel()));
  if (tensor.name.empty()) return values;
  if (!tensor.transposed) {
    Shape global = hf;
    if (tensor.vocab_rows) global[0] = vocab;
    reader.read<float>(tensor.name, Slice::whole(global).range(0, hf.numel()), values);
    return values;
  }
  std::vector<float> turned(values.size());
  reader.read<float>(tensor.name, Slice::whole({hf[1], hf[0]}), turned);
  transpose(turned, hf[1], hf[0], values);
  return values;
}

void write_weights(CheckpointReader& reader, const ModelConfig& config, const fs::path& path, DType dtype) {
  const std::vector<HfTensor> tensors = hf_gpt2_tensors(config);
  std::vector<SafetensorsSpec> specs;
  for (const HfTensor& tensor : tensors) specs.push_back({tensor.hf_name, dtype, tensor.hf_shape});
  SafetensorsWriter writer(path, specs, {{"format", "pt"}});
  std::vector<std::byte> converted;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<float> values = read_tensor(reader, tensors[i], config.vocab);
    writer.begin_tensor(specs[i]);
    if (dtype == DType::f32) {
      writer.append(std::as_bytes(std::span(values)));
    } else {
      converted.resize(values.size() * size_of(dtype));
      convert_elements(DType::f32, std::as_bytes(std::span(values)), dtype, converted);
      writer.append(converted);
    }
  }
  writer.finish();
}

}  // namespace

void export_hf_gpt2(const fs::path& checkpoint, const fs::path& folder, DType dtype) {
  CheckpointReader reader(checkpoint);
  const ModelConfig config = model_from_json(reader.section("model"), checkpoint.string());
  check_exportable(config);
  const std::string hf_text = hf_config(reader, config, dtype).dump(2) + "\n";

  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw IoError(fmt::format("cannot create the folder {}: {}", folder.string(), error.message()));
  // Under other names first: a failure leaves an earlier export whole.
  const fs::path weights = folder / ".model.safetensors.tmp", text = folder / ".config.json.tmp";
  try {
    write_weights(reader, config, weights, dtype);
    write_text_durably(text, hf_text);
  } catch (...) {
    fs::remove(weights, error);
    fs::remove(text, error);
    throw;
  }
  rename_path(weights, folder / "model.safetensors");
  rename_path(text, folder / "config.json");
  sync_folder(folder);
}

}  // namespace trireme
