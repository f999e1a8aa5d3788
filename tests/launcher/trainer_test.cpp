// Training as a whole, with ranks as threads: every number of ranks gives the same curve, a bad step moves nothing.
#include <gmock/gmock.h>

#include <cmath>

#include "tests/launcher/profiled_run.h"
#include "tests/launcher/trainer_fixture.h"

namespace trireme {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

TEST_F(TrainerTest, EveryNumberOfRanksGivesTheSameCurve) {
  const auto reference = alone(config("one"), 10);
  EXPECT_LT(reference.back().loss, reference.front().loss - 0.3);
  for (int ranks : {2, 4}) {
    std::vector<StepMetrics> found;
    LocalWorld(ranks).run([&](Group& world) {
      ASSERT_EQ(world.size(), ranks);
      Trainer trainer(config("ranks-" + std::to_string(ranks)), world);
      const auto mine = steps(trainer, 10);
      if (world.rank() == 0) found = mine;
    });
    ASSERT_EQ(found.size(), reference.size());
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_NEAR(found[i].loss, reference[i].loss, 1e-5 * reference[i].loss) << ranks << " ranks, step " << i + 1;
      EXPECT_NEAR(found[i].grad_norm, reference[i].grad_norm, 1e-4 * reference[i].grad_norm);
    }
  }
}

TEST_F(TrainerTest, MicroBatchesAndRecomputeChangeNothing) {
  const auto reference = alone(config("plain"), 5);
  Config other = config("other");
  other.batch.micro = 8;
  other.model.recompute = "full";
  const auto found = alone(other, 5);
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i].loss, reference[i].loss, 1e-5 * reference[i].loss);
}

TEST_F(TrainerTest, AStepWithAnInfiniteGradientMovesNothing) {
  const Config c = config("infinite");
  SoloGroup group;
  Trainer trainer(c, group);
  steps(trainer, 2);
  const auto before = weights(trainer);
  Parameter& norm = trainer.model().parameter("ln_f.weight");
  const float kept = norm.data.data<float>()[0];
  norm.data.data<float>()[0] = INFINITY;
  EXPECT_TRUE(trainer.step().skipped);
  norm.data.data<float>()[0] = kept;
  EXPECT_EQ(weights(trainer), before);
  EXPECT_EQ(trainer.progress().skipped, 1);
  EXPECT_FALSE(trainer.step().skipped);
  EXPECT_NE(weights(trainer), before);
}

TEST_F(TrainerTest, ADynamicLossScaleShrinksUntilNothingOverflowsAndGrowsAgain) {
  Config c = config("scale");
  c.precision.loss_scale = "dynamic";
  c.precision.initial_scale = 0x1p120;  // the squares of such gradients are beyond f32
  c.precision.backoff = 0x1p-50;
  c.precision.growth_interval = 3;
  SoloGroup group;
  Trainer scaled(c, group);
  const auto before = weights(scaled);
  std::vector<StepMetrics> path = steps(scaled, 2);
  EXPECT_EQ(path[0].loss_scale, 0x1p120);
  EXPECT_EQ(path[1].loss_scale, 0x1p70);
  EXPECT_TRUE(path[0].skipped && path[1].skipped);
  EXPECT_EQ(weights(scaled), before);
  path = steps(scaled, 3);
  for (const StepMetrics& m : path) {
    EXPECT_EQ(m.loss_scale, 0x1p20);
    EXPECT_FALSE(m.skipped);
  }
  EXPECT_NE(weights(scaled), before);
  scaled.save();
  EXPECT_EQ(scaled.step().loss_scale, 0x1p21);
  // What is saved goes on where it was.
  Trainer resumed(c, group);
  EXPECT_EQ(resumed.step().loss_scale, 0x1p21);
}

TEST_F(TrainerTest, WhatNoLossScaleHelpsIsTold) {
  Config c = config("floor");
  c.precision.loss_scale = "dynamic";
  c.precision.initial_scale = c.precision.min_scale = 0x1p120;
  SoloGroup group;
  ::testing::internal::CaptureStdout();
  {
    Trainer trainer(c, group);
    for (const StepMetrics& m : steps(trainer, 3)) {
      EXPECT_TRUE(m.skipped);
      EXPECT_EQ(m.loss_scale, 0x1p120);
    }
  }
  const std::string output = ::testing::internal::GetCapturedStdout();
  const size_t note = output.find("note: gradients are not finite at precision.min_scale");
  EXPECT_NE(note, std::string::npos) << output;
  EXPECT_EQ(output.find("note: gradients", note + 1), std::string::npos) << "once is enough";
}

TEST_F(TrainerTest, AFixedLossScaleThatIsTooLargeIsTold) {
  Config c = config("fixed");
  c.precision.loss_scale = "1e38";
  SoloGroup group;
  ::testing::internal::CaptureStdout();
  {
    Trainer trainer(c, group);
    for (const StepMetrics& m : steps(trainer, 3)) EXPECT_TRUE(m.skipped);
  }
  const std::string output = ::testing::internal::GetCapturedStdout();
  const size_t note = output.find("note: gradients are not finite with precision.loss_scale 1e+38");
  EXPECT_NE(note, std::string::npos) << output;
  EXPECT_EQ(output.find("note: gradients", note + 1), std::string::npos) << "once is enough";
}

TEST_F(TrainerTest, AProfileIsATableAndATimelineOfItsSteps) {
  const auto [table, timeline] = profiled_run(config("profiled"));
  EXPECT_THAT(table, ContainsRegex("^2 steps of [0-9.]+ ms, [0-9.]+ TFLOP/s"));
  // 2 layers with two products each, three passes of 4 micro-batches a step
  EXPECT_THAT(table, ContainsRegex(" +[0-9.]+ +[0-9.]+% +48\\.0 +[0-9.]+ +[0-9. %]*linear\n"));
  EXPECT_THAT(timeline, HasSubstr("\"name\":\"linear\""));
}

TEST_F(TrainerTest, AStepInSteadyStateAsksForNoMemory) {
  for (const int ranks : {1, 4}) {
    Config c = config("steady-" + std::to_string(ranks));
    if (ranks > 1) c.parallel.tensor = c.parallel.pipeline = 2;
    LocalWorld(ranks).run([&](Group& world) {
      Trainer trainer(c, world);
      steps(trainer, 3);
      trainer.save();
      const size_t asked = trainer.memory().device_allocations;
      for (int i = 0; i < 4; ++i) {
        steps(trainer, 1);
        trainer.save();
        EXPECT_EQ(trainer.memory().device_allocations, asked) << "rank " << world.rank() << " of " << ranks;
      }
    });
  }
}

TEST_F(TrainerTest, TheMeasuringOfThePeakIsNoMemoryOfTheRun) {
  SoloGroup group;
  Trainer trainer(config("small"), group);
  steps(trainer, 2);
  EXPECT_LT(trainer.memory().peak_total_bytes, size_t{2} << 20) << "a model of 30,000 parameters";
}

/// 2 stages of 2 tensor ranks each, twice.
ParallelConfig mixed_layout() {
  ParallelConfig parallel;
  parallel.pipeline = parallel.tensor = 2;
  parallel.sequence = true;
  parallel.schedule = "zb-h1";
  return parallel;
}

TEST_F(TrainerTest, AnOverflowOnOneRankSkipsTheStepOnAllStagesAndTensorRanks) {
  Config c = config("mixed");
  c.parallel = mixed_layout();
  LocalWorld(8).run([&](Group& world) {
    ASSERT_EQ(world.size(), 8);
    Trainer trainer(c, world);
    const auto before = weights(trainer);
    const bool breaks = world.rank() == 3;  // a tensor rank of the last stage: its gradients alone overflow
    Parameter& norm = trainer.model().parameter("ln_f.weight");
    if (breaks) norm.data.data<float>()[0] = INFINITY;
    EXPECT_TRUE(trainer.step().skipped) << world.rank();
    if (breaks) norm.data.data<float>()[0] = 1.0f;
    EXPECT_EQ(weights(trainer), before) << world.rank();
    EXPECT_FALSE(trainer.step().skipped) << world.rank();
    EXPECT_NE(weights(trainer), before) << world.rank();
  });
}

TEST_F(TrainerTest, ADynamicLossScaleGoesTheSameWayOnEveryLayout) {
  Config c = config("scale-one");
  c.precision.loss_scale = "dynamic";
  c.precision.initial_scale = 0x1p120;
  c.precision.backoff = 0x1p-50;
  c.precision.growth_interval = 2;
  const auto expected = alone(c, 6);
  EXPECT_TRUE(expected[1].skipped && !expected[2].skipped);
  c.parallel = mixed_layout();
  c.run.out = (folder_ / "scale-mixed").string();
  LocalWorld(8).run([&](Group& world) {
    ASSERT_EQ(world.size(), 8);
    Trainer trainer(c, world);
    const auto found = steps(trainer, 6);
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].loss_scale, expected[i].loss_scale) << i;
      EXPECT_EQ(found[i].skipped, expected[i].skipped) << i;
      EXPECT_NEAR(found[i].loss, expected[i].loss, 1e-4 * expected[i].loss) << i;
    }
  });
}

TEST_F(TrainerTest, Bf16LearnsTheSameOnALayout) {
  Config c = config("bf16-one");
  c.precision.compute = "bf16";
  c.run.steps = 40;
  const auto one = alone(c, 40);
  c.parallel = mixed_layout();
  for (const char* reduce : {"f32", "compute"}) {
    c.precision.reduce = reduce;
    c.run.out = (folder_ / ("bf16-mixed-" + std::string(reduce))).string();
    LocalWorld(8).run([&](Group& world) {
      ASSERT_EQ(world.size(), 8);
      Trainer trainer(c, world);
      EXPECT_NEAR(steps(trainer, 40).back().loss, one.back().loss, 0.01 * one.back().loss) << reduce;
    });
  }
}

TEST_F(TrainerTest, OptimizersAndBucketsOfAnySizeTrainTheSameOnALayout) {
  for (const char* kind : {"sgd", "lion", "adafactor"}) {
    Config c = config(std::string(kind) + "-one");
    c.optim.kind = kind;
    c.optim.lr = std::string(kind) == "lion" ? 1e-4 : 1e-3;
    const auto expected = alone(c, 5);
    c.parallel = mixed_layout();
    if (std::string(kind) == "adafactor") c.parallel.tensor = 1, c.parallel.sequence = false;  // needs whole matrices
    c.sync.bucket_mb = 0.001;
    c.sync.overlap = false;
    c.run.out = (folder_ / (std::string(kind) + "-mixed")).string();
    LocalWorld(8).run([&](Group& world) {
      ASSERT_EQ(world.size(), 8);
      Config mine = c;
      if (std::string(kind) == "adafactor") mine.batch.micro = 1;
      Trainer trainer(mine, world);
      const auto found = steps(trainer, 5);
      for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i].loss, expected[i].loss, 2e-4 * expected[i].loss) << kind << ' ' << i;
    });
  }
}

TEST_F(TrainerTest, SizesThatDoNotFitAreRefusedWithTheOnesThatDo) {
  const auto refusal = [&](auto change) {
    Config c = config("refused");
    change(c);
    try {
      alone(c, 1);
    } catch (const ConfigError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_NE(refusal([](Config& c) { c.batch.micro = 3; }).find("batch.micro"), std::string::npos);
  EXPECT_NE(refusal([](Config& c) { c.batch.sequence = 64; }).find("model.context = 32"), std::string::npos);
  EXPECT_NE(refusal([](Config& c) { c.model.vocab = 32; }).find("vocab"), std::string::npos);
  EXPECT_NE(refusal([](Config& c) { c.parallel.data = 2; }).find("set parallel.data to 1"), std::string::npos);
}

}  // namespace
}  // namespace trireme
