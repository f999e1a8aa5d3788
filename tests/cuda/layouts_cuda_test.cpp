// Layouts of ranks on GPUs train the model that one GPU trains. Two ranks on two GPUs exchange through NCCL; where ranks
// have to share a GPU, through host memory.
#include <gtest/gtest.h>

#include <mutex>

#include "comm/local/local_world.h"
#include "comm/solo_group.h"
#include "launcher/trainer.h"
#include "tests/cuda/gpu.h"
#include "tests/launcher/final_weights.h"
#include "tests/temporary_folder.h"
#include "tests/launcher/token_file.h"

namespace trireme {
namespace {

constexpr int kSteps = 20;

struct Layout {
  const char* name;
  int ranks;
  ParallelConfig parallel;
};
std::ostream& operator<<(std::ostream& out, const Layout& layout) { return out << layout.name; }

struct Outcome {
  std::vector<double> losses;
  Weights weights;
};

class LayoutsCuda : public ::testing::TestWithParam<Layout> {
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

  void expect_same_model() const {
    const Outcome one = train(config("f32", "one"), 1);
    Config c = config("f32", "layout");
    c.parallel = GetParam().parallel;
    const Outcome found = train(c, GetParam().ranks);
    for (size_t i = 0; i < one.losses.size(); ++i)
      EXPECT_NEAR(found.losses[i], one.losses[i], 1e-5 * one.losses[i]) << "step " << i + 1;
    expect_near(found.weights, one.weights, 1e-5);
  }

  TemporaryFolder folder_;
};

/// Those that need as many GPUs as ranks.
class ManyGpus : public LayoutsCuda {
 protected:
  void SetUp() override {
    TRIREME_NEEDS_GPUS(GetParam().ranks);
    LayoutsCuda::SetUp();
  }
};

TEST_P(LayoutsCuda, TrainTheSameModelInF32) { expect_same_model(); }

// Sums of rounded parts are rounded once more than the whole: losses stay near one another.
TEST_P(LayoutsCuda, LearnTheSameInBf16) {
  const Outcome one = train(config("bf16", "one"), 1);
  Config c = config("bf16", "layout");
  c.parallel = GetParam().parallel;
  const Outcome found = train(c, GetParam().ranks);
  EXPECT_LT(one.losses.back(), one.losses.front() - 0.5);
  for (size_t i = 0; i < one.losses.size(); ++i)
    EXPECT_NEAR(found.losses[i], one.losses[i], 0.01 * one.losses[i]) << "step " << i + 1;
}

const Layout kLayouts[] = {
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
INSTANTIATE_TEST_SUITE_P(All, LayoutsCuda, ::testing::ValuesIn(kLayouts),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(ManyGpus, TrainTheSameModelInF32) { expect_same_model(); }

const Layout kManyGpus[] = {
    {"data4", 4, {}},
    {"tensor3", 3, {.tensor = 3}},
    {"sequence2_data2", 4, {.tensor = 2, .sequence = true}},
    {"zb_h1_3", 3, {.pipeline = 3, .schedule = "zb-h1"}},
    {"zb_v2_data2", 4, {.pipeline = 2, .schedule = "zb-v"}},
    {"sequence2_zb_v2", 4, {.pipeline = 2, .tensor = 2, .sequence = true, .schedule = "zb-v"}},
    {"context4", 4, {.context = 4}},
    {"context2_data2", 4, {.context = 2}},
};
INSTANTIATE_TEST_SUITE_P(All, ManyGpus, ::testing::ValuesIn(kManyGpus),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace trireme
