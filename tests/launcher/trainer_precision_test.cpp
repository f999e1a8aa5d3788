// Training in less than f32: bf16, with and without f32 masters, and what is refused.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/launcher/trainer_fixture.h"

namespace trireme {
namespace {

TEST_F(TrainerTest, Bf16LearnsLikeF32) {
  Config c = config("f32");
  c.run.steps = 40;
  const auto f32 = alone(c, 40);
  c.run.out = (folder_ / "bf16").string();
  c.precision.compute = "bf16";
  const auto bf16 = alone(c, 40);
  EXPECT_NE(bf16.front().loss, f32.front().loss);
  EXPECT_NEAR(bf16.back().loss, f32.back().loss, 0.02 * f32.back().loss);
}

TEST_F(TrainerTest, WithoutMastersItLearnsAsWithThem) {
  for (const char* kind : {"adamw", "sgd", "lion"}) {
    Config c = config(std::string("masters-") + kind);
    c.optim.kind = kind;
    c.optim.lr = kind == std::string("adamw") ? 1e-2 : kind == std::string("sgd") ? 1e-1 : 2e-3;
    c.run.steps = 60;
    c.precision.compute = "bf16";
    const auto masters = alone(c, 60);
    c.run.out = (folder_ / (std::string("rounded-") + kind)).string();
    c.precision.master = false;
    const auto rounded = alone(c, 60);
    EXPECT_LT(masters.back().loss, masters.front().loss - 0.5) << kind;
    EXPECT_EQ(rounded.front().loss, masters.front().loss) << kind;
    EXPECT_NE(rounded.back().loss, masters.back().loss) << kind;
    EXPECT_NEAR(rounded.back().loss, masters.back().loss, 0.02 * masters.back().loss) << kind;
  }
}

TEST_F(TrainerTest, WithoutMastersDataRanksStayEqualAndFollowOneRank) {
  Config c = config("rounded");
  c.precision.compute = "bf16";
  c.precision.master = false;
  const auto reference = alone(c, 10);
  for (int ranks : {2, 4}) {
    std::vector<std::vector<float>> found(static_cast<size_t>(ranks));
    LocalWorld(ranks).run([&](Group& world) {
      ASSERT_EQ(world.size(), ranks);
      Config mine = c;
      mine.run.out = (folder_ / ("rounded-" + std::to_string(ranks))).string();
      Trainer trainer(mine, world);
      const auto curve = steps(trainer, 10);
      // Sums of gradients round differently, and that may send a weight to its other neighbour.
      for (size_t i = 0; i < curve.size(); ++i) EXPECT_NEAR(curve[i].loss, reference[i].loss, 2e-3 * reference[i].loss) << i;
      found[static_cast<size_t>(world.rank())] = weights(trainer);
    });
    for (const auto& other : found) EXPECT_EQ(other, found[0]) << ranks;
  }
}

TEST_F(TrainerTest, WithoutMastersResumeIsBitForBit) {
  for (const int ranks : {1, 2}) {
    Config c = config("rounded-resume-" + std::to_string(ranks));
    c.precision.compute = "bf16";
    c.precision.master = false;
    LocalWorld(ranks).run([&](Group& world) {
      ASSERT_EQ(world.size(), ranks);
      Trainer whole(c, world);
      steps(whole, 4);
      whole.save();
      const auto expected = steps(whole, 3);
      Trainer resumed(c, world);
      EXPECT_EQ(resumed.progress().step, 4);
      const auto found = steps(resumed, 3);
      for (size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i].loss, expected[i].loss);
      EXPECT_EQ(weights(resumed), weights(whole));
    });
  }
}

TEST_F(TrainerTest, ARunMayDropItsMastersAndTakeThemUpAgain) {
  Config c = config("drop");
  c.precision.compute = "bf16";
  SoloGroup group;
  Trainer full(c, group);
  steps(full, 4);
  full.save();
  const auto expected = steps(full, 2);
  c.precision.master = false;
  Trainer rounded(c, group);
  EXPECT_EQ(rounded.progress().step, 4);
  const auto found = steps(rounded, 2);
  EXPECT_EQ(found[0].loss, expected[0].loss);  // both start from the masters rounded to nearest
  EXPECT_NEAR(found[1].loss, expected[1].loss, 5e-3 * expected[1].loss);
  rounded.save();
  c.precision.master = true;
  Trainer again(c, group);
  EXPECT_EQ(again.progress().step, 6);
  EXPECT_EQ(weights(again), weights(rounded));
  EXPECT_EQ(again.step().loss, rounded.step().loss);
}

TEST_F(TrainerTest, WithoutMastersIsForBf16AndElementWiseOptimizers) {
  const auto refusal = [&](const char* compute, const char* kind) {
    Config c = config("no-master");
    c.precision.compute = compute;
    c.precision.master = false;
    c.optim.kind = kind;
    try {
      alone(c, 1);
    } catch (const ConfigError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_NE(refusal("f32", "adamw").find("precision.master: false rounds bf16 weights"), std::string::npos);
  EXPECT_NE(refusal("bf16", "adafactor").find("works with adamw, sgd and lion"), std::string::npos);
  EXPECT_EQ(refusal("bf16", "adamw"), "accepted");
  PrecisionConfig f16;
  f16.compute = "f16", f16.master = false;
  EXPECT_THROW(check_master(f16), ConfigError);
}

TEST_F(TrainerTest, AFixedLossScaleOfAPowerOfTwoChangesNothing) {
  Config plain = config("unscaled"), scaled = config("scaled");
  scaled.precision.loss_scale = "1024";
  SoloGroup group;
  Trainer a(plain, group), b(scaled, group);
  const auto x = steps(a, 5), y = steps(b, 5);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i].loss, y[i].loss, 1e-6 * x[i].loss) << i;
}

TEST_F(TrainerTest, PrecisionsOfAGpuAreRefusedOnTheCpu) {
  SoloGroup group;
  for (const char* compute : {"f16", "tf32"}) {
    Config c = config("precision");
    c.precision.compute = compute;
    EXPECT_THROW(Trainer(c, group), ConfigError);
  }
  Config c = config("precision");
  c.precision.loss_scale = "many";
  EXPECT_THROW(Trainer(c, group), ConfigError);
}

}  // namespace
}  // namespace trireme
