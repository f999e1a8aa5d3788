// Runs that stop go on: bit for bit, on any number of ranks, and never from the wrong checkpoint.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/launcher/trainer_fixture.h"

namespace trireme {
namespace {

TEST_F(TrainerTest, ResumeIsBitForBitAndOnAnyNumberOfRanks) {
  for (const char* kind : {"adamw", "sgd", "lion", "adafactor"})
    for (const char* compute : {"f32", "bf16"}) {
      Config c = config(std::string(kind) + compute);
      c.optim.kind = kind;
      c.precision.compute = compute;
      c.optim.skip_zscore = 6.0;
      c.optim.skip_window = 4;
      SoloGroup group;
      Trainer whole(c, group);
      steps(whole, 4);
      whole.save();
      const auto expected = steps(whole, 3);
      Trainer resumed(c, group);
      EXPECT_EQ(resumed.progress().step, 4);
      const auto found = steps(resumed, 3);
      for (size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i].loss, expected[i].loss) << kind << ' ' << compute;
      EXPECT_EQ(weights(resumed), weights(whole)) << kind << ' ' << compute;
      if (std::string(compute) == "bf16") continue;
      // Adafactor divides by second moments with no epsilon beside them, so the bias of the keys, whose gradient is
      // zero but for rounding, moves by rounding too.
      const double tolerance = std::string(kind) == "adafactor" ? 1e-3 : 2e-5;
      LocalWorld(2).run([&](Group& world) {
        ASSERT_EQ(world.size(), 2);
        Trainer two(c, world);
        EXPECT_EQ(two.progress().step, 4);
        const auto curve = steps(two, 3);
        for (size_t i = 0; i < curve.size(); ++i) EXPECT_NEAR(curve[i].loss, expected[i].loss, tolerance * expected[i].loss) << kind;
      });
    }
}

TEST_F(TrainerTest, ACheckpointOfAnotherModelIsRefused) {
  const Config c = config("model");
  SoloGroup group;
  Trainer whole(c, group);
  whole.step();
  whole.save();
  const auto refusal = [&](const Config& other) {
    try {
      Trainer trainer(other, group);
    } catch (const ConfigError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  Config heads = c;
  heads.model.heads = 4;  // of the same shapes
  EXPECT_NE(refusal(heads).find("model.heads = 2 there, 4 here"), std::string::npos);
  Config fresh = c;
  fresh.checkpoint.init_from = c.run.out;
  fresh.run.out = (folder_ / "fresh").string();
  fresh.model.bias = false;
  EXPECT_NE(refusal(fresh).find("model.bias"), std::string::npos);
  fresh.model.bias = true;
  Trainer trainer(fresh, group);
  EXPECT_EQ(trainer.progress().step, 0);
  EXPECT_EQ(weights(trainer), weights(whole));
}

TEST_F(TrainerTest, OutlierSkippingCanBeTurnedOnInAResumedRun) {
  Config c = config("guard");
  SoloGroup group;
  Trainer plain(c, group);
  steps(plain, 2);
  plain.save();
  const auto expected = steps(plain, 2);
  c.optim.skip_zscore = 6.0;
  Trainer guarded(c, group);
  EXPECT_EQ(steps(guarded, 2).back().loss, expected.back().loss);
}

TEST_F(TrainerTest, ARunBegunAnewKeepsItsOwnCheckpoints) {
  Config c = config("anew");
  c.checkpoint.keep = 1;
  SoloGroup group;
  {
    Trainer first(c, group);
    steps(first, 6);
    first.save();
  }
  c.checkpoint.resume = "never";
  {
    Trainer second(c, group);
    steps(second, 2);
    second.save();
  }
  c.checkpoint.resume = "auto";
  Trainer third(c, group);
  EXPECT_EQ(third.progress().step, 2);
}

TEST_F(TrainerTest, CheckpointOfTwoRanksIsReadByOne) {
  const Config c = config("two");
  std::vector<float> saved;
  LocalWorld(2).run([&](Group& world) {
    ASSERT_EQ(world.size(), 2);
    Trainer trainer(c, world);
    steps(trainer, 2);
    trainer.save();
    if (world.rank() == 0) saved = weights(trainer);
  });
  SoloGroup group;
  Trainer one(c, group);
  EXPECT_EQ(one.progress().step, 2);
  EXPECT_EQ(weights(one), saved);
}

}  // namespace
}  // namespace trireme
