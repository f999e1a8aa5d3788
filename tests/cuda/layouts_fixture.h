// What the tests of layouts on GPUs share: a small run, on one rank and on a layout of threads.
#pragma once

#include <gtest/gtest.h>

#include <mutex>

#include "comm/local/local_world.h"
#include "comm/solo_group.h"
#include "launcher/trainer.h"
#include "tests/cuda/gpu.h"
#include "tests/launcher/final_weights.h"
#include "tests/sanitized.h"
#include "tests/temporary_folder.h"
#include "tests/launcher/token_file.h"

namespace trireme {

#ifdef TRIREME_FAKE_GPUS  // threads of the host, tests/fake_gpu
inline constexpr int kSteps = unless_sanitized(10, 5);
#else
inline constexpr int kSteps = 20;
#endif

struct Layout {
  const char* name;
  int ranks;
  ParallelConfig parallel;
};
inline std::ostream& operator<<(std::ostream& out, const Layout& layout) { return out << layout.name; }

/// Of ranks that may share GPUs.
inline const Layout kLayouts[] = {
    {"data2", 2, {}},
    {"tensor2", 2, {.tensor = 2}},
    {"sequence2", 2, {.tensor = 2, .sequence = true}},
    {"gpipe2", 2, {.pipeline = 2, .schedule = "gpipe"}},
    {"one_f_one_b2", 2, {.pipeline = 2, .schedule = "1f1b"}},
    {"interleaved2", 2, {.pipeline = 2, .schedule = "interleaved"}},
    {"zb_h1_2", 2, {.pipeline = 2, .schedule = "zb-h1"}},
    {"zb_v2", 2, {.pipeline = 2, .schedule = "zb-v"}},
    {"context2", 2, {.context = 2}},
    {"sequence2_zb_h1_2", 4, {.pipeline = 2, .tensor = 2, .sequence = true, .schedule = "zb-h1"}},
    {"context2_zb_v2", 4, {.context = 2, .pipeline = 2, .schedule = "zb-v"}},
};

struct Outcome {
  std::vector<double> losses;
  Weights weights;
  int num_replaying = 0, num_captured = 0;  // ranks, in the end
};

class LayoutsOnGpus : public ::testing::TestWithParam<Layout> {
 protected:
  void SetUp() override {
    TRIREME_NEEDS_GPUS(1);
    write_token_file(folder_ / "train.bin", 12001, squares(90));
  }

  Config config(const std::string& compute, const std::string& out) const {
    Config c;
    c.model.layers = 5, c.model.heads = 6, c.model.width = 192, c.model.context = 64, c.model.vocab = 96;
    c.model.true_vocab = 90;
    c.model.dropout = 0.1;
    c.data.train = {{(folder_ / "train.bin").string(), 1.0}};
    c.batch.global = 16, c.batch.micro = 2;
    c.optim.lr = 2e-3;
    c.optim.eps = 1e-4;  // gradients that are only rounding must not be blown up
    c.optim.schedule = {"cosine", 3, 0.1, 0};
    c.precision.compute = compute;
    c.run.device = "cuda";
    c.run.steps = kSteps;
    c.run.timeout_s = 60;
    c.run.out = (folder_ / out).string();
    c.run.tensorboard = false;
    c.checkpoint.every = 0;
    return c;
  }

  static Outcome train(const Config& c, int ranks) {
    Outcome outcome;
    std::mutex mutex;
    const auto body = [&](Group& world) {
      Trainer trainer(c, world);
      for (int i = 0; i < kSteps; ++i) {
        const StepMetrics m = trainer.step();
        const std::lock_guard lock(mutex);
        if (world.rank() == 0) outcome.losses.push_back(m.loss);
      }
      trainer.save();
      const std::lock_guard lock(mutex);
      outcome.num_replaying += trainer.replays();
      outcome.num_captured += trainer.has_captured();
    };
    if (ranks == 1) {
      SoloGroup solo;
      body(solo);
    } else {
      LocalWorld(ranks).run(body);
    }
    outcome.weights = read_weights(c.run.out);
    return outcome;
  }

  /// Sums of rounded parts are rounded once more than the whole: losses stay near one another.
  void expect_near_losses(const std::string& compute, const std::string& reduce = "f32") const {
    const Outcome one = train(config(compute, "one"), 1);
    Config c = config(compute, "layout");
    c.precision.reduce = reduce;
    c.parallel = GetParam().parallel;
    const Outcome found = train(c, GetParam().ranks);
    EXPECT_LT(one.losses.back(), one.losses.front() - 0.5);
    for (size_t i = 0; i < one.losses.size(); ++i)
      EXPECT_NEAR(found.losses[i], one.losses[i], 0.01 * one.losses[i]) << "step " << i + 1;
  }

  TemporaryFolder folder_;
};

}  // namespace trireme
