// A whole run on a GPU, which is a step ahead of what it reports.
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/cuda/gpu.h"
#include "tests/launcher/trainer_fixture.h"

namespace trireme {
namespace {

class RunCuda : public TrainerTest {
 protected:
  void SetUp() override { TRIREME_NEEDS_GPUS(1); }

  /// The steps that a run of five reports.
  std::vector<int64_t> reported(Config c) const {
    c.run.device = "cuda";
    c.run.steps = 5;
    SoloGroup group;
    Trainer trainer(c, group);
    trainer.run();
    EXPECT_EQ(trainer.progress().step, 5);
    std::vector<int64_t> steps;
    std::ifstream lines(fs::path(c.run.out) / "metrics.jsonl");
    for (std::string line; std::getline(lines, line);)
      if (const auto json = nlohmann::json::parse(line); json.contains("grad_norm")) steps.push_back(json.at("step"));
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
