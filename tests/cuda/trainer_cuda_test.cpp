// Training on a GPU as a whole: the curve of the CPU, of itself, and of lower precisions; a replayed step; overflows.
#include <gmock/gmock.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include <cuda_runtime.h>

#include <nlohmann/json.hpp>

#include "comm/solo_group.h"
#include "launcher/trainer.h"
#include "tests/cuda/gpu.h"
#include "tests/launcher/profiled_run.h"
#include "tests/launcher/token_file.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;
using ::testing::ContainsRegex;

class TrainerCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    TRIREME_NEEDS_GPUS(1);
    folder_ = fs::temp_directory_path() / ("trireme-cuda-" + std::to_string(getpid()));
    fs::create_directories(folder_);
    uint32_t state = 1, token = 1;  // words that follow one another by a rule, with some noise: there is something to learn
    write_token_file(folder_ / "train.bin", 40001, [&](size_t i) {
      state = state * 1664525u + 1013904223u;
      const uint32_t noise = (state >> 24) % 4 == 0 ? (state >> 16) % 60 : 0;
      return token = ((i ? token * 7u + 3u : 1u) + noise) % 60u;
    });
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  Config config(const std::string& device, const std::string& compute) {
    Config c;
    c.model.layers = 3, c.model.heads = 4, c.model.width = 128, c.model.context = 128, c.model.vocab = 64;
    c.model.dropout = 0.1;
    c.data.train = {{(folder_ / "train.bin").string(), 1.0}};
    c.batch.global = 16, c.batch.micro = 8;
    c.optim.lr = 2e-3;
    c.optim.schedule = {"cosine", 10, 0.1, 0};
    c.precision.compute = compute;
    c.run.device = device;
    c.run.steps = 1000;
    c.run.out = (folder_ / std::to_string(++runs_)).string();
    c.run.tensorboard = false;
    c.checkpoint.every = 0;
    return c;
  }
  std::vector<StepMetrics> train(const Config& c, int count) {
    SoloGroup group;
    Trainer trainer(c, group);
    std::vector<StepMetrics> steps;
    for (int i = 0; i < count; ++i) steps.push_back(trainer.step());
    return steps;
  }
  static double mean_of_last(const std::vector<StepMetrics>& steps, size_t count) {
    double sum = 0.0;
    for (size_t i = steps.size() - count; i < steps.size(); ++i) sum += steps[i].loss;
    return sum / static_cast<double>(count);
  }

  fs::path folder_;
  int runs_ = 0;
};

TEST_F(TrainerCuda, LossesInF32AreThoseOfTheCpu) {
  const auto cpu = train(config("cpu", "f32"), 20), gpu = train(config("cuda", "f32"), 20);
  for (size_t i = 0; i < cpu.size(); ++i) {
    EXPECT_NEAR(gpu[i].loss, cpu[i].loss, 1e-4 * cpu[i].loss) << "step " << i + 1;
    EXPECT_NEAR(gpu[i].grad_norm, cpu[i].grad_norm, 1e-3 * cpu[i].grad_norm) << "step " << i + 1;
  }
}

TEST_F(TrainerCuda, TwoRunsAreTheSameBitForBit) {
  for (const char* compute : {"f32", "bf16"}) {
    const auto a = train(config("cuda", compute), 12), b = train(config("cuda", compute), 12);
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i].loss, b[i].loss) << compute << " step " << i + 1;
      EXPECT_EQ(a[i].grad_norm, b[i].grad_norm) << compute << " step " << i + 1;
    }
  }
}

TEST_F(TrainerCuda, AReplayedStepIsTheStepItself) {
  Config launched = config("cuda", "bf16"), replayed = config("cuda", "bf16");
  launched.run.cuda_graph = "off";
  replayed.run.cuda_graph = "auto";
  const auto a = train(launched, 10), b = train(replayed, 10);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i].loss, b[i].loss) << "step " << i + 1;
}

TEST_F(TrainerCuda, AStepInSteadyStateAsksForNoMemory) {
  for (const char* cuda_graph : {"off", "auto"}) {
    Config c = config("cuda", "bf16");
    c.run.cuda_graph = cuda_graph;
    SoloGroup group;
    Trainer trainer(c, group);
    for (int i = 0; i < 5; ++i) trainer.step();
    trainer.save();
    const size_t asked = trainer.memory().device_allocations;
    for (int i = 0; i < 5; ++i) {
      trainer.step();
      trainer.save();
      EXPECT_EQ(trainer.memory().device_allocations, asked) << cuda_graph;
    }
  }
}

TEST_F(TrainerCuda, LowerPrecisionsLearnLikeF32) {
  constexpr int kSteps = 200;
  const double f32 = mean_of_last(train(config("cuda", "f32"), kSteps), 20);
  EXPECT_LT(f32, 3.0);  // it learnt something: chance is ln 60 = 4.1
  for (const char* compute : {"tf32", "bf16", "f16"})
    EXPECT_NEAR(mean_of_last(train(config("cuda", compute), kSteps), 20), f32, 0.01 * f32) << compute;
}

TEST_F(TrainerCuda, OverflowsInF16ShrinkTheScaleAndMoveNothing) {
  Config c = config("cuda", "f16");
  c.precision.initial_scale = 0x1p40;  // beyond f16's range whatever the gradient
  c.precision.backoff = 0x1p-10;
  c.precision.growth_interval = 4;
  SoloGroup group;
  Trainer trainer(c, group);
  const auto weights = [&] {
    std::vector<std::vector<std::byte>> all;
    for (const Parameter* p : trainer.model().parameters()) {
      all.emplace_back(p->data.bytes());
      cudaMemcpy(all.back().data(), p->data.raw(), p->data.bytes(), cudaMemcpyDeviceToHost);
    }
    return all;
  };
  const auto before = weights();
  double scale = 0x1p40;
  StepMetrics m = trainer.step();
  for (; m.skipped && scale > 1.0; m = trainer.step()) {
    EXPECT_EQ(m.loss_scale, scale);
    scale *= 0x1p-10;
    EXPECT_TRUE(weights() == before);
  }
  EXPECT_LT(scale, 0x1p40);
  EXPECT_FALSE(m.skipped);
  EXPECT_FALSE(weights() == before);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(trainer.step().loss_scale, scale);
  EXPECT_EQ(trainer.step().loss_scale, 2 * scale);
  trainer.save();
  EXPECT_EQ(Trainer(c, group).step().loss_scale, 2 * scale) << "as the checkpoint has it";
}

TEST_F(TrainerCuda, AProfileTellsOfOperationsAndKernels) {
  const auto [table, timeline] = profiled_run(config("cuda", "bf16"));
  EXPECT_THAT(table, ContainsRegex("^2 steps of [0-9.]+ ms, [0-9.]+ TFLOP/s, [0-9.]+% of the peak measured"));
  EXPECT_THAT(table, ContainsRegex("the device is idle [0-9.]+ ms a step; communication 0.000 ms, of which 0.000 ms exposed"));
  EXPECT_THAT(table, ContainsRegex("\n +[0-9.]+ +[0-9.]+% +[0-9.]+ +[0-9.]+ +[0-9.]+%  forward: linear\n")) << "with its rate";
  EXPECT_THAT(table, ContainsRegex("\n +[0-9.]+ +[0-9.]+% +[0-9.]+ +update\n"));
  EXPECT_THAT(table, ContainsRegex("\n +[0-9.]+ +[0-9.]+% +[0-9.]+ +[^\n]*backward_kernel<")) << "of layer_norm";
  const auto trace = nlohmann::json::parse(timeline);
  int products = 0, kernels = 0;  // as the host queued them, as the device ran them
  for (const auto& event : trace.at("traceEvents")) {
    products += event.at("ph") == "X" && event.at("cat") == "compute" && event.at("name") == "linear";
    kernels += event.at("ph") == "X" && event.at("cat") == "device" && event.at("dur").get<int64_t>() >= 0;
  }
  EXPECT_EQ(products, 2 * 3 * 3 * 2 * 2) << "two of each of 3 blocks, three passes of two micro-batches, in two steps";
  EXPECT_GT(kernels, products);
}

TEST_F(TrainerCuda, AResumedRunGoesOnBitForBit) {
  Config c = config("cuda", "bf16");
  SoloGroup group;
  std::vector<StepMetrics> straight;
  {
    Trainer trainer(c, group);
    for (int i = 0; i < 4; ++i) trainer.step();
    trainer.save();
    for (int i = 0; i < 4; ++i) straight.push_back(trainer.step());
  }
  Trainer resumed(c, group);
  for (const StepMetrics& m : straight) EXPECT_EQ(resumed.step().loss, m.loss) << m.step;
}

}  // namespace
}  // namespace trireme
