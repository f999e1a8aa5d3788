// Training as a whole, with ranks as threads: every number of ranks gives the same curve, a resumed run goes on bit
// for bit, a bad step moves nothing.
#include "launcher/trainer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "comm/local/local_world.h"
#include "comm/solo_group.h"
#include "tests/launcher/token_file.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() : folder_(fs::temp_directory_path() / ("trireme-trainer-" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
    write_token_file(folder_ / "train.bin", 4001, squares(60));
  }
  ~TrainerTest() override { fs::remove_all(folder_); }

  Config config(const std::string& out) const {
    Config c;
    c.model.layers = 2, c.model.heads = 2, c.model.width = 32, c.model.context = 32, c.model.vocab = 64;
    c.model.dropout = 0.1;
    c.data.train = {{(folder_ / "train.bin").string(), 1.0}};
    c.batch.global = 8, c.batch.micro = 2;
    c.optim.lr = 1e-2;
    c.optim.schedule = {"cosine", 3, 0.1, 0};
    c.run.steps = 10;
    c.run.device = "cpu";
    c.run.threads = 1;
    c.run.out = (folder_ / out).string();
    c.run.tensorboard = false;
    c.checkpoint.every = 0;
    return c;
  }
  static std::vector<StepMetrics> steps(Trainer& trainer, int count) {
    std::vector<StepMetrics> all;
    for (int i = 0; i < count; ++i) all.push_back(trainer.step());
    return all;
  }
  static std::vector<float> weights(const Trainer& trainer) {
    std::vector<float> all;
    for (const Parameter* p : trainer.model().parameters())
      for (int64_t i = 0; p->data.defined() && i < p->data.numel(); ++i)  // another stage's has no memory here
        all.push_back(p->data.dtype() == DType::f32 ? p->data.data<float>()[i] : static_cast<float>(p->data.data<bf16>()[i]));
    return all;
  }
  std::vector<StepMetrics> alone(const Config& c, int count) {
    SoloGroup group;
    Trainer trainer(c, group);
    return steps(trainer, count);
  }

  fs::path folder_;
};

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
