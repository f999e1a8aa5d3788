// Hugging Face's GPT-2, both ways, against files made here element by element.
#include "models/hf_gpt2.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/safetensors.h"
#include "core/error.h"
#include "models/gpt.h"
#include "models/model_json.h"

namespace trireme {
namespace {

using nlohmann::json;
using testing::HasSubstr;
namespace fs = std::filesystem;

constexpr int64_t kWidth = 4, kVocab = 11, kContext = 6, kLayers = 2, kInner = 12;

using Tensors = std::map<std::string, std::pair<Shape, std::vector<float>>>;

/// All tensors of the tiny model; every element of every tensor is another number, awkward ones among them.
Tensors tiny_tensors(const std::string& prefix = "transformer.") {
  Tensors tensors;
  float next = 0.1f;
  const auto add = [&](const std::string& name, const Shape& shape) {
    std::vector<float> values(static_cast<size_t>(shape.numel()));
    for (float& v : values) {
      next += 0.7f;
      v = next * (static_cast<int>(next) % 2 == 1 ? 1.0f : -1e-3f);
    }
    values[0] = -0.0f;
    values.back() = 1e-42f;  // subnormal
    tensors[prefix + name] = {shape, values};
  };
  add("wte.weight", {kVocab, kWidth});
  add("wpe.weight", {kContext, kWidth});
  for (int i = 0; i < kLayers; ++i) {
    const std::string h = "h." + std::to_string(i) + ".";
    for (const char* norm : {"ln_1", "ln_2"}) {
      add(h + norm + ".weight", {kWidth});
      add(h + norm + ".bias", {kWidth});
    }
    add(h + "attn.c_attn.weight", {kWidth, 3 * kWidth});
    add(h + "attn.c_attn.bias", {3 * kWidth});
    add(h + "attn.c_proj.weight", {kWidth, kWidth});
    add(h + "attn.c_proj.bias", {kWidth});
    add(h + "mlp.c_fc.weight", {kWidth, kInner});
    add(h + "mlp.c_fc.bias", {kInner});
    add(h + "mlp.c_proj.weight", {kInner, kWidth});
    add(h + "mlp.c_proj.bias", {kWidth});
  }
  add("ln_f.weight", {kWidth});
  add("ln_f.bias", {kWidth});
  return tensors;
}

json tiny_config() {
  return {{"model_type", "gpt2"}, {"n_layer", kLayers},
          {"n_head", 2},          {"n_embd", kWidth},
          {"n_inner", kInner},    {"n_positions", kContext},
          {"vocab_size", kVocab}, {"activation_function", "gelu_new"},
          {"eos_token_id", 7},    {"bos_token_id", nullptr},
          {"resid_pdrop", 0.25}};
}

class HfGpt2Test : public testing::Test {
 protected:
  HfGpt2Test() { fs::create_directories(hf); }
  ~HfGpt2Test() override { fs::remove_all(root); }

  void write_file(const fs::path& path, const Tensors& tensors, DType dtype = DType::f32) const {
    std::vector<SafetensorsSpec> specs;
    for (const auto& [name, tensor] : tensors) specs.push_back({name, dtype, tensor.first});
    SafetensorsWriter writer(path, specs, {{"format", "pt"}});
    for (const SafetensorsSpec& spec : specs) {
      writer.begin_tensor(spec);
      for (float value : tensors.at(spec.name).second) {
        const bf16 narrow(value);
        if (dtype == DType::f32) writer.append(std::as_bytes(std::span(&value, 1)));
        if (dtype == DType::bf16) writer.append(std::as_bytes(std::span(&narrow, 1)));
      }
    }
    writer.finish();
  }
  void write_model(const Tensors& tensors, const json& config = tiny_config()) const {
    write_file(hf / "model.safetensors", tensors);
    std::ofstream(hf / "config.json") << config;
  }

  std::vector<float> read(const std::string& name, const Shape& shape) const {
    CheckpointReader reader(checkpoint);
    std::vector<float> values(static_cast<size_t>(shape.numel()));
    reader.read<float>(name, Slice::whole(shape), values);
    return values;
  }
  std::string import_error() const {
    try {
      import_hf_gpt2(hf, checkpoint);
    } catch (const ConfigError& error) {
      EXPECT_FALSE(fs::exists(checkpoint));
      return error.what();
    }
    return "";
  }

  fs::path root = fs::temp_directory_path() / ("trireme-hf-" + std::to_string(::getpid()) + "-" +
                                               testing::UnitTest::GetInstance()->current_test_info()->name());
  fs::path hf = root / "hf", checkpoint = root / "checkpoint", back = root / "back";
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Exactly `wanted`, bit for bit, and nothing else.
void expect_file_holds(const fs::path& path, const Tensors& wanted) {
  const SafetensorsFile file(path);
  EXPECT_EQ(file->entries().size(), wanted.size());
  for (const auto& [name, tensor] : wanted) {
    const SafetensorsEntry* entry = file->find(name);
    ASSERT_NE(entry, nullptr) << name;
    EXPECT_EQ(entry->shape, tensor.first) << name;
    EXPECT_EQ(entry->dtype, DType::f32) << name;
    EXPECT_TRUE(std::ranges::equal(entry->bytes, std::as_bytes(std::span(tensor.second)))) << name;
  }
}

TEST_F(HfGpt2Test, ImportTurnsAndNamesTheTensors) {
  const Tensors tensors = tiny_tensors();
  write_model(tensors);
  const ModelConfig config = import_hf_gpt2(hf, checkpoint);
  EXPECT_EQ(config.ffn, kInner);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.true_vocab, kVocab);
  EXPECT_EQ(config.dropout, 0.25);
  EXPECT_TRUE(config.tied && config.bias);

  const std::vector<float>& c_attn = tensors.at("transformer.h.1.attn.c_attn.weight").second;  // [C, 3C]
  const std::vector<float> qkv = read("h.1.attn.qkv.weight", {3 * kWidth, kWidth});
  for (int64_t out = 0; out < 3 * kWidth; ++out)
    for (int64_t in = 0; in < kWidth; ++in)
      EXPECT_EQ(qkv[static_cast<size_t>(out * kWidth + in)],
                c_attn[static_cast<size_t>(in * 3 * kWidth + out)]);
  EXPECT_TRUE(same_bits(read("wte.weight", {kVocab, kWidth}), tensors.at("transformer.wte.weight").second));
  EXPECT_TRUE(
      same_bits(read("h.0.mlp.up.bias", {kInner}), tensors.at("transformer.h.0.mlp.c_fc.bias").second));
}

TEST_F(HfGpt2Test, TheCheckpointHoldsExactlyTheModelsParameters) {
  write_model(tiny_tensors());
  import_hf_gpt2(hf, checkpoint, 64);
  CheckpointReader reader(checkpoint);
  Gpt model(model_from_json(reader.section("model"), "checkpoint"));
  EXPECT_EQ(reader.names().size(), model.parameters().size());
  for (const Parameter* p : model.parameters()) {
    ASSERT_TRUE(reader.has(p->name)) << p->name;
    EXPECT_EQ(reader.shape(p->name), p->global_shape()) << p->name;
  }
}

TEST_F(HfGpt2Test, ThereAndBackBitForBit) {
  const Tensors tensors = tiny_tensors();
  write_model(tensors);
  import_hf_gpt2(hf, checkpoint);
  export_hf_gpt2(checkpoint, back);
  expect_file_holds(back / "model.safetensors", tensors);
  EXPECT_EQ(SafetensorsFile(back / "model.safetensors")->metadata().at("format"), "pt");

  const json config = json::parse(std::ifstream(back / "config.json"));
  EXPECT_EQ(config["architectures"], json::array({"GPT2LMHeadModel"}));
  const json wanted = tiny_config();
  for (const auto& [key, value] : wanted.items()) EXPECT_EQ(config[key], value) << key;
  EXPECT_EQ(config["layer_norm_epsilon"], 1e-5);
  EXPECT_EQ(config["tie_word_embeddings"], true);
}

TEST_F(HfGpt2Test, PaddingOfTheVocabularyComesAndGoes) {
  const Tensors tensors = tiny_tensors();
  write_model(tensors);
  const ModelConfig config = import_hf_gpt2(hf, checkpoint, 16);
  EXPECT_EQ(config.vocab, 16);
  EXPECT_EQ(config.true_vocab, kVocab);
  const std::vector<float> wte = read("wte.weight", {16, kWidth});
  for (size_t i = kVocab * kWidth; i < wte.size(); ++i) EXPECT_EQ(wte[i], 0.0f);
  export_hf_gpt2(checkpoint, back);
  expect_file_holds(back / "model.safetensors", tensors);
  EXPECT_EQ(json::parse(std::ifstream(back / "config.json"))["vocab_size"], kVocab);
}

TEST_F(HfGpt2Test, NamesWithoutPrefixMasksAndARepeatedHeadAreTaken) {
  Tensors tensors = tiny_tensors("");
  tensors["h.0.attn.bias"] = {{1, 1, kContext, kContext}, std::vector<float>(kContext * kContext, 1.0f)};
  tensors["h.0.attn.masked_bias"] = {{}, {-1e4f}};
  tensors["lm_head.weight"] = tensors["wte.weight"];
  write_model(tensors);
  import_hf_gpt2(hf, checkpoint);
  export_hf_gpt2(checkpoint, back);
  expect_file_holds(back / "model.safetensors", tiny_tensors());
}

TEST_F(HfGpt2Test, AnUntiedHeadStaysItsOwn) {
  Tensors tensors = tiny_tensors();
  tensors["lm_head.weight"] = tensors["transformer.wte.weight"];
  tensors["lm_head.weight"].second[3] = 99.0f;
  json config = tiny_config();
  config["tie_word_embeddings"] = false;
  write_model(tensors, config);
  EXPECT_FALSE(import_hf_gpt2(hf, checkpoint, 12).tied);
  export_hf_gpt2(checkpoint, back);
  expect_file_holds(back / "model.safetensors", tensors);
  EXPECT_EQ(json::parse(std::ifstream(back / "config.json"))["tie_word_embeddings"], false);
}

TEST_F(HfGpt2Test, SeveralFilesWithAnIndex) {
  const Tensors tensors = tiny_tensors();
  Tensors halves[2];
  json index{{"metadata", json::object()}, {"weight_map", json::object()}};
  for (const auto& [name, tensor] : tensors) {
    const size_t half = index["weight_map"].size() % 2;
    halves[half][name] = tensor;
    index["weight_map"][name] = half == 0 ? "model-1.safetensors" : "model-2.safetensors";
  }
  write_file(hf / "model-1.safetensors", halves[0]);
  write_file(hf / "model-2.safetensors", halves[1]);
  std::ofstream(hf / "model.safetensors.index.json") << index;
  std::ofstream(hf / "config.json") << tiny_config();
  import_hf_gpt2(hf, checkpoint);
  export_hf_gpt2(checkpoint, back);
  expect_file_holds(back / "model.safetensors", tensors);

  index["weight_map"]["transformer.wte.weight"] = "../model-1.safetensors";
  std::ofstream(hf / "model.safetensors.index.json") << index;
  fs::remove_all(checkpoint);
  EXPECT_THAT(import_error(), HasSubstr("not a name in this folder"));
}

TEST_F(HfGpt2Test, NarrowTypesBothWays) {
  const Tensors tensors = tiny_tensors();
  write_model(tensors);
  write_file(hf / "model.safetensors", tensors, DType::bf16);
  import_hf_gpt2(hf, checkpoint);
  export_hf_gpt2(checkpoint, back, DType::bf16);
  const SafetensorsFile in(hf / "model.safetensors"), out(back / "model.safetensors");
  for (const SafetensorsEntry& entry : in->entries()) {
    const SafetensorsEntry* other = out->find(entry.name);
    ASSERT_NE(other, nullptr) << entry.name;
    EXPECT_EQ(other->dtype, DType::bf16);
    EXPECT_TRUE(std::ranges::equal(entry.bytes, other->bytes)) << entry.name;
  }
  EXPECT_EQ(json::parse(std::ifstream(back / "config.json"))["torch_dtype"], "bfloat16");
  EXPECT_THROW(export_hf_gpt2(checkpoint, back, DType::i32), ConfigError);
}

TEST_F(HfGpt2Test, AModelWithoutBiasesIsExportedWithZeros) {
  Tensors tensors = tiny_tensors();
  write_model(tensors);
  ModelConfig config = import_hf_gpt2(hf, checkpoint);
  {
    CheckpointReader reader(checkpoint);
    config.bias = false;
    CheckpointTarget target;
    target.root = root;
    target.name = "nobias";
    CheckpointWriter writer(target);
    for (const std::string& name : reader.names())
      if (!name.ends_with(".bias")) {
        std::vector<float> values(static_cast<size_t>(reader.shape(name).numel()));
        reader.read<float>(name, Slice::whole(reader.shape(name)), values);
        writer.add(name, DType::f32, Slice::whole(reader.shape(name)), std::as_bytes(std::span(values)));
      }
    writer.set_section("model", model_to_json(config));
    writer.commit();
  }
  export_hf_gpt2(root / "nobias", back);
  for (auto& [name, tensor] : tensors)
    if (name.ends_with(".bias")) tensor.second.assign(tensor.second.size(), 0.0f);
  expect_file_holds(back / "model.safetensors", tensors);
}

TEST_F(HfGpt2Test, WhatCannotBeKeptIsRefused) {
  const auto with_config = [&](const char* key, json value) {
    json config = tiny_config();
    config[key] = std::move(value);
    write_model(tiny_tensors(), config);
    return import_error();
  };
  EXPECT_THAT(with_config("model_type", "llama"), HasSubstr("'model_type' is llama"));
  EXPECT_THAT(with_config("activation_function", "relu"), HasSubstr("relu"));
  EXPECT_THAT(with_config("layer_norm_epsilon", 1e-6), HasSubstr("1e-06"));
  EXPECT_THAT(with_config("scale_attn_by_inverse_layer_idx", true), HasSubstr("inverse_layer"));
  EXPECT_THAT(with_config("n_layer", "two"), HasSubstr("'n_layer'"));
  EXPECT_THAT(with_config("n_layer", 3),
              HasSubstr("no file of the model has the tensor 'transformer.h.2.ln_1.weight'"));
  EXPECT_THAT(with_config("n_layer", 1), HasSubstr("is not part of GPT-2"));
  EXPECT_THAT(with_config("n_positions", 7),
              HasSubstr("[6, 4]; by config.json it should be floating-point [7, 4]"));
  EXPECT_THAT(with_config("tie_word_embeddings", false), HasSubstr("lm_head.weight"));

  Tensors tensors = tiny_tensors();
  tensors["lm_head.weight"] = tensors["transformer.wte.weight"];
  tensors["lm_head.weight"].second[3] = 99.0f;
  write_model(tensors);
  EXPECT_THAT(import_error(), HasSubstr("tie_word_embeddings"));

  fs::remove(hf / "model.safetensors");
  EXPECT_THAT(import_error(), HasSubstr("safe_serialization"));
}

TEST_F(HfGpt2Test, OnlyACheckpointIsReplaced) {
  write_model(tiny_tensors());
  import_hf_gpt2(hf, checkpoint);
  EXPECT_NO_THROW(import_hf_gpt2(hf, checkpoint / ""));  // a slash at the end, and over itself
  fs::create_directories(root / "home");
  EXPECT_NO_THROW(import_hf_gpt2(hf, root / "home"));  // empty
  fs::create_directories(root / "mine");
  std::ofstream(root / "mine" / "letter.txt") << "dear";
  EXPECT_THROW(import_hf_gpt2(hf, root / "mine"), ConfigError);
  EXPECT_TRUE(fs::exists(root / "mine" / "letter.txt"));
}

TEST_F(HfGpt2Test, GroupedQueriesHaveNoPlaceThere) {
  write_model(tiny_tensors());
  ModelConfig config = import_hf_gpt2(hf, checkpoint);
  config.kv_heads = 1;
  CheckpointTarget target;
  target.root = root;
  target.name = "grouped";
  CheckpointWriter writer(target);
  writer.set_section("model", model_to_json(config));
  writer.commit();
  EXPECT_THROW(export_hf_gpt2(root / "grouped", back), ConfigError);
  EXPECT_FALSE(fs::exists(back));
}

}  // namespace
}  // namespace trireme
