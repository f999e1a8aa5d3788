// metrics.jsonl: its lines, what a resumed run keeps of them, and a full disk.
#include "launcher/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/temporary_folder.h"

namespace trireme {
namespace {

std::vector<nlohmann::json> lines_of(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

StepMetrics metrics_of(int64_t step) {
  return {.step = step, .loss = 1.0 / static_cast<double>(step)};
}

TEST(Metrics, ALineAStepAndAValidation) {
  TemporaryFolder folder;
  const auto file = folder / "new/folder/metrics.jsonl";
  MetricsWriter writer(file);
  writer.write(StepMetrics{.step = 3,
                           .loss = 0.1,
                           .grad_norm = 0.5,
                           .lr = 6e-4,
                           .tokens = 96,
                           .tokens_per_s = 1000,
                           .step_ms = 32});
  EXPECT_EQ(lines_of(file).size(), 1u) << "a line is there as soon as it is written";
  writer.write(ValidMetrics{.step = 3, .loss = 2.0, .bits_per_byte = 1.5, .tokens = 64});
  writer.write(ValidMetrics{.step = 4, .loss = 2.0, .bits_per_byte = std::nullopt, .tokens = 64});
  const auto lines = lines_of(file);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0], (nlohmann::json{{"step", 3},
                                      {"loss", 0.1},
                                      {"grad_norm", 0.5},
                                      {"lr", 6e-4},
                                      {"tokens", 96},
                                      {"tokens_per_s", 1000.0},
                                      {"step_ms", 32.0}}));
  EXPECT_EQ(lines[1]["valid_loss"], 2.0);
  EXPECT_EQ(lines[1]["valid_bits_per_byte"], 1.5);
  EXPECT_FALSE(lines[2].contains("valid_bits_per_byte"));
}

TEST(Metrics, SkippedStepsAndNumbersThatAreNone) {
  TemporaryFolder folder;
  MetricsWriter(folder / "m")
      .write(StepMetrics{.step = 1, .loss = std::numeric_limits<double>::quiet_NaN(), .skipped = true});
  const auto lines = lines_of(folder / "m");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_TRUE(lines[0]["loss"].is_null());
  EXPECT_EQ(lines[0]["skipped"], true);
}

TEST(Metrics, TheScaleOfAScaledLossIsThereEvenAtOne) {
  TemporaryFolder folder;
  MetricsWriter writer(folder / "m");
  writer.write(StepMetrics{.step = 1});
  writer.write(StepMetrics{.step = 2, .loss_scale = 1.0});
  writer.write(StepMetrics{.step = 3, .loss_scale = 65536.0});
  const auto lines = lines_of(folder / "m");
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_FALSE(lines[0].contains("loss_scale"));
  EXPECT_EQ(lines[1].at("loss_scale"), 1.0);
  EXPECT_EQ(lines[2].at("loss_scale"), 65536.0);
}

TEST(Metrics, AResumedRunCutsOffWhatCameAfterItsCheckpoint) {
  TemporaryFolder folder;
  const auto file = folder / "metrics.jsonl";
  {
    MetricsWriter writer(file);
    for (int64_t step = 1; step <= 6; ++step) writer.write(metrics_of(step));
    writer.write(ValidMetrics{.step = 6});
  }
  const auto before = lines_of(file);
  std::ofstream(file, std::ios::app) << "{\"step\": 7, \"lo";  // a crash in the middle of a line
  {
    MetricsWriter writer(file, 6);
    EXPECT_EQ(lines_of(file), before);
  }
  MetricsWriter writer(file, 4);
  writer.write(metrics_of(5));
  const auto lines = lines_of(file);
  ASSERT_EQ(lines.size(), 5u);
  for (size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(lines[i]["step"], i + 1);
}

TEST(Metrics, ANewRunStartsTheFileAnew) {
  TemporaryFolder folder;
  MetricsWriter(folder / "m").write(metrics_of(1));
  MetricsWriter(folder / "m").write(metrics_of(9));
  ASSERT_EQ(lines_of(folder / "m").size(), 1u);
  EXPECT_EQ(lines_of(folder / "m")[0]["step"], 9);
}

TEST(Metrics, AFullDiskNamesTheFile) {
  TemporaryFolder folder;
  const auto file = folder / "metrics.jsonl";
  std::filesystem::create_symlink("/dev/full", file);
  MetricsWriter writer(file);
  try {
    writer.write(metrics_of(1));
    FAIL() << "wrote to a full disk";
  } catch (const IoError& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("metrics.jsonl cannot be written: No space left on device"));
  }
  std::ofstream(folder / "file") << "x";
  EXPECT_THROW(MetricsWriter(folder / "file/metrics.jsonl"), IoError);
}

}  // namespace
}  // namespace trireme
