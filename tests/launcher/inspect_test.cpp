// What `trireme inspect` tells: of checkpoints, shards, tokenizers, experiment files, and of what is none of
// them.
#include "launcher/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/safetensors.h"
#include "core/data/prepare.h"
#include "core/data/shard_writer.h"
#include "core/error.h"
#include "launcher/tensor_statistics.h"
#include "tests/temporary_folder.h"
#include "tests/refusal.h"

namespace trireme {
namespace {

using nlohmann::json;
using testing::HasSubstr;
namespace fs = std::filesystem;

fs::path write_checkpoint(const fs::path& root, int64_t step) {
  CheckpointTarget target;
  target.root = root;
  target.step = step;
  CheckpointWriter writer(target);
  const std::vector<float> w{1.0f, 2.0f, 3.0f, 6.0f};
  const std::vector<float> holes{1.0f, std::numeric_limits<float>::quiet_NaN()};
  const std::vector<int32_t> counts{-5, 7};
  const Slice whole = Slice::whole({2, 2});
  writer.add("w", DType::f32, whole.range(0, 3), std::as_bytes(std::span(w).first(3)));
  writer.add("w", DType::f32, whole.range(3, 4), std::as_bytes(std::span(w).last(1)));
  writer.add("holes", DType::f32, Slice::whole({2}), std::as_bytes(std::span(holes)));
  writer.add("counts", DType::i32, Slice::whole({2}), std::as_bytes(std::span(counts)));
  writer.set_section("config", "run:\n  steps: 3\n");
  writer.set_section("trainer", {{"tokens", 64}});
  return writer.commit();
}

std::string error_of(const fs::path& path, const InspectOptions& options = {}) {
  return refusal_of([&] { inspect(path, options); }, "");
}

TEST(Inspect, ACheckpoint) {
  const TemporaryFolder folder;
  const json found = inspect(write_checkpoint(folder.path(), 7), {});
  EXPECT_EQ(found["kind"], "checkpoint");
  EXPECT_EQ(found["step"], 7);
  EXPECT_EQ(found["bytes"], 32);
  const json& w = found["tensors"][0];
  EXPECT_EQ(w["name"], "w");
  EXPECT_EQ(w["shape"], json({2, 2}));
  EXPECT_EQ(w["slices"], 2);
  EXPECT_EQ(w["min"], 1.0);
  EXPECT_EQ(w["max"], 6.0);
  EXPECT_EQ(w["mean"], 3.0);
  EXPECT_DOUBLE_EQ(w["std"].get<double>(), std::sqrt(3.5));
  EXPECT_EQ(found["tensors"][1]["not_finite"], 1);
  EXPECT_EQ(found["tensors"][2]["min"], -5.0);
  EXPECT_EQ(found["sections"]["trainer"]["tokens"], 64);

  const std::string text = inspection_text(found);
  EXPECT_THAT(text, HasSubstr("step 7"));
  EXPECT_THAT(text, HasSubstr("[2, 2]"));
  EXPECT_THAT(text, HasSubstr("holes has 1 elements that are not finite"));
  EXPECT_THAT(text, HasSubstr("  steps: 3"));
}

TEST(Inspect, QuickReadsNoValuesAndVerifyReadsAll) {
  const TemporaryFolder folder;
  const fs::path checkpoint = write_checkpoint(folder.path(), 7);
  const fs::path file = checkpoint / "rank-00000-000.safetensors";
  std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
  f.seekp(-1, std::ios::end);
  f.put('x');
  f.close();
  EXPECT_FALSE(inspect(checkpoint, {.values = false, .verify = false})["tensors"][0].contains("min"));
  EXPECT_THAT(error_of(checkpoint, {.values = false, .verify = true}), HasSubstr("checksum"));
  EXPECT_THAT(error_of(checkpoint), HasSubstr("checksum"));
}

TEST(Inspect, ARunsFolder) {
  const TemporaryFolder folder;
  write_checkpoint(folder / "run", 7);
  fs::remove(write_checkpoint(folder / "run", 8) / kManifestName);
  const json found = inspect(folder / "run", {.values = false, .verify = true});
  ASSERT_EQ(found["checkpoints"].size(), 2u);
  EXPECT_THAT(found["checkpoints"][0]["problem"].get<std::string>(), HasSubstr(kManifestName));
  EXPECT_EQ(found["checkpoints"][1]["step"], 7);
  EXPECT_EQ(found["checkpoints"][1]["verified"], true);
  EXPECT_THAT(inspection_text(found), HasSubstr("all checksums fit"));
}

TEST(Inspect, ASafetensorsFile) {
  const TemporaryFolder folder;
  const fs::path path = folder / "model.safetensors";
  const std::vector<SafetensorsSpec> specs{{"x", DType::u8, {3}}};
  SafetensorsWriter writer(path, specs, {{"format", "pt"}});
  writer.begin_tensor(specs[0]);
  writer.append(std::vector<std::byte>{std::byte{1}, std::byte{2}, std::byte{6}});
  writer.finish();
  const json found = inspect(path, {});
  EXPECT_EQ(found["metadata"]["format"], "pt");
  EXPECT_EQ(found["tensors"][0]["mean"], 3.0);
  EXPECT_THAT(inspection_text(found), HasSubstr("[3]"));
}

TEST(Inspect, Shards) {
  const TemporaryFolder folder;
  for (const ShardFormat format : {ShardFormat::llmc, ShardFormat::megatron}) {
    const fs::path path = folder / (std::string(name_of(format)) + ".bin");
    const std::vector<int32_t> tokens{5, 3, 5, 900};
    const auto writer = make_shard_writer(format, path, 1000);
    writer->append(tokens);
    writer->end_document();
    writer->finish();
    writer->publish();
    const json found = inspect(path, {});
    EXPECT_EQ(found["tokens"], 4);
    EXPECT_EQ(found["token_type"], "uint16");
    EXPECT_EQ(found["layout"], format == ShardFormat::llmc ? "llm.c" : "megatron");
    EXPECT_EQ(found["ids"], json({{"min", 3}, {"max", 900}, {"distinct", 3}}));
    EXPECT_EQ(found["first"], json(tokens));
    EXPECT_THAT(inspection_text(found), HasSubstr("3 to 900, 3 different"));
  }
  EXPECT_EQ(inspect(folder / "megatron.idx", {})["tokens"], 4);
}

TEST(Inspect, ADataSet) {
  const TemporaryFolder folder;
  std::ofstream(folder / "a.txt") << "one\ntwo\nthree\n";
  PrepareOptions options;
  options.inputs = {folder / "a.txt"};
  options.out = folder / "out";
  options.tokenizer = "bytes";
  options.valid_fraction = 0.4;
  prepare(options);
  const json found = inspect(folder / "out", {});
  EXPECT_EQ(found["tokenizer"], "bytes");
  EXPECT_EQ(found["train"]["tokens"], 9);
  EXPECT_EQ(found["valid"]["text_bytes"], 6);
  EXPECT_EQ(inspect(folder / "out" / "dataset.json", {}), found);
  EXPECT_THAT(inspection_text(found), HasSubstr("bytes tokenizer, vocabulary 257, from 1 input\n"));
}

TEST(Inspect, AnExperimentFile) {
  const TemporaryFolder folder;
  const fs::path path = folder / "tiny.yaml";
  std::ofstream(path) << "model: {preset: tiny, vocab: 64}\nbatch: {global: 4, micro: 2}\nrun: {steps: 10}\n"
                         "data: {train: train.bin, tokenizer: bytes}\n";
  const json found = inspect(path, {});
  EXPECT_EQ(found["tokens_per_step"], 4 * 32);
  EXPECT_EQ(found["tokens"], 10 * 4 * 32);
  // 64 and 32 rows of embeddings, 2 blocks of 12 C^2 + 13 C, the last norm
  EXPECT_EQ(found["parameters"], (64 + 32) * 32 + 2 * (12 * 32 * 32 + 13 * 32) + 2 * 32);
  EXPECT_THAT(inspection_text(found), HasSubstr("weight_decay"));
  EXPECT_THAT(inspection_text(found), HasSubstr("problem: model.vocab = 64 is less than the 257 tokens"));
  std::ofstream(path) << "model: {preset: tiny}\ndata: {train: train.bin, tokenizer: bytes}\n";
  EXPECT_THAT(inspection_text(inspect(path, {})), AllOf(HasSubstr("vocab: 320"), HasSubstr("true_vocab: 257")));
}

TEST(Inspect, AnExperimentFileWhoseDataIsNotThere) {
  const TemporaryFolder folder;
  const fs::path path = folder / "tiny.yaml";
  std::ofstream(path) << "model: {preset: tiny}\ndata: {train: nowhere/train*.bin}\n";
  const json found = inspect(path, {});
  EXPECT_FALSE(found.contains("parameters"));
  EXPECT_THAT(inspection_text(found), HasSubstr("problem: no token shard is called"));
  EXPECT_THAT(inspection_text(found), HasSubstr("weight_decay"));
}

TEST(Inspect, SomethingElseIsNamed) {
  const TemporaryFolder folder;
  std::ofstream(folder / "notes.txt") << "hello";
  EXPECT_THAT(error_of(folder / "notes.txt"), HasSubstr("notes.txt"));
  EXPECT_THAT(error_of(folder / "nowhere"), HasSubstr("no such"));
  EXPECT_THAT(error_of(folder.path()), HasSubstr("without a checkpoint"));
}

TEST(TensorStatistics, LargeMeansLoseNothing) {
  constexpr int64_t kCount = 200001;  // several pieces, the last one short
  const TensorStatistics s =
      measure(DType::f64, kCount, [](int64_t begin, int64_t end, std::span<std::byte> out) {
        auto* values = reinterpret_cast<double*>(out.data());
        for (int64_t i = begin; i < end; ++i) values[i - begin] = 1e9 + static_cast<double>(i % 3) - 1.0;
      });
  EXPECT_EQ(s.count, kCount);
  EXPECT_EQ(s.min, 1e9 - 1.0);
  EXPECT_EQ(s.max, 1e9 + 1.0);
  EXPECT_NEAR(s.mean, 1e9, 1e-6);
  EXPECT_NEAR(s.std_deviation, std::sqrt(2.0 / 3.0), 1e-9);
}

TEST(TensorStatistics, NothingFinite) {
  const TensorStatistics s = measure(DType::f32, 3, [](int64_t, int64_t, std::span<std::byte> out) {
    for (float& x : std::span(reinterpret_cast<float*>(out.data()), 3))
      x = std::numeric_limits<float>::infinity();
  });
  EXPECT_EQ(s.count, 0);
  EXPECT_EQ(s.not_finite, 3);
}

}  // namespace
}  // namespace trireme
