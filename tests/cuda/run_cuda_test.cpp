// A whole run on a GPU, which is a step ahead of what it reports, and the times that it reports.
#include <algorithm>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <thread>

#include "tests/cuda/gpu.h"
#include "tests/launcher/late_steps.h"
#include "tests/launcher/trainer_fixture.h"

namespace trireme {
namespace {

class RunCuda : public TrainerTest {
 protected:
  void SetUp() override { TRIREME_NEEDS_GPUS(1); }

  /// What a run reports of its steps.
  static std::vector<nlohmann::json> reports(Config c) {
    c.run.device = "cuda";
    SoloGroup group;
    Trainer trainer(c, group);
    trainer.run();
    EXPECT_EQ(trainer.progress().step, c.run.steps);
    std::vector<nlohmann::json> steps;
    std::ifstream lines(fs::path(c.run.out) / "metrics.jsonl");
    for (std::string line; std::getline(lines, line);)
      if (auto json = nlohmann::json::parse(line); json.contains("grad_norm")) steps.push_back(std::move(json));
    return steps;
  }
  static std::vector<int64_t> reported(Config c) {
    c.run.steps = 5;
    std::vector<int64_t> steps;
    for (const auto& report : reports(c)) steps.push_back(report.at("step"));
    return steps;
  }
};

TEST_F(RunCuda, ReportsItsLastStepToo) {
  const std::vector<int64_t> all{1, 2, 3, 4, 5};
  Config c = config("bare");
  c.run.eval_every = 0;
  c.checkpoint.at_end = false;
  EXPECT_EQ(reported(c), all);
  c.run.out += "-saved";
  c.checkpoint.at_end = true;
  EXPECT_EQ(reported(c), all);
}

TEST_F(RunCuda, TakesTheTimeOfStepsFromTheDevice) {
  for (const std::chrono::duration<double> time : times_of_late_steps(make_cuda_backend(), std::chrono::seconds(1))) {
    EXPECT_GT(time.count(), 0.0);
    EXPECT_LT(time.count(), 0.5);
  }
}

TEST_F(RunCuda, TimesOfStepsAddUpToLessThanTheRun) {
  Config c = config("timed");
  c.run.steps = 20;
  c.run.eval_every = 8;  // no step is under way then
  c.data.valid = c.data.train;
  const auto begin = std::chrono::steady_clock::now();
  const std::vector<nlohmann::json> all = reports(c);
  const std::chrono::duration<double, std::milli> run = std::chrono::steady_clock::now() - begin;
  std::vector<double> times;
  for (const auto& report : all) times.push_back(report.at("step_ms"));
  ASSERT_EQ(times.size(), 20u);
  EXPECT_LT(std::accumulate(times.begin(), times.end(), 0.0), run.count());
  std::ranges::sort(times);
  EXPECT_GT(times.front(), times[10] / 10) << "none is done in no time";
}

TEST(TimedEventCuda, TellsWhenTheDeviceGotThere) {
  TRIREME_NEEDS_GPUS(1);
  Engine engine(make_cuda_backend());
  const Context ctx = engine.context();
  const auto begin = ctx.backend->make_timed_event(), end = ctx.backend->make_timed_event(), later = ctx.backend->make_timed_event();
  const Tensor t = ctx.empty({1 << 20}, DType::f32);
  begin->record(*ctx.stream);
  ctx.backend->fill_zero(t.raw(), t.bytes(), *ctx.stream);
  end->record(*ctx.stream);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  later->record(*ctx.stream);
  later->synchronize();
  EXPECT_GT(end->seconds_since(*begin), 0.0);
  EXPECT_LT(end->seconds_since(*begin), 0.4);
  EXPECT_GT(later->seconds_since(*end), 0.1);
}

// With asan: that one still writes its numbers.
TEST_F(RunCuda, EndsWithAStepUnderWay) {
  write_token_file(folder_ / "broken.bin", 4001, [](size_t i) { return i == 700 ? 60'000u : 1u; });
  Config c = config("broken");
  c.data.train = {{(folder_ / "broken.bin").string(), 1.0}};
  c.data.shuffle = false;
  c.run.device = "cuda";
  SoloGroup group;
  EXPECT_THROW(Trainer(c, group).run(), ConfigError);
}

}  // namespace
}  // namespace trireme
