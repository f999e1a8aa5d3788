// Every layout of ranks trains the same model: 20 steps with dropout on one rank, and on mixes of data,
// tensor, sequence, pipeline and context ranks as threads, end with the same weights. Runs go on from one
// layout to another.
#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <mutex>

#include "comm/local/local_world.h"
#include "comm/solo_group.h"
#include "launcher/trainer.h"
#include "tests/launcher/token_file.h"
#include "tests/launcher/final_weights.h"
#include "tests/sanitized.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

struct Layout {
  const char* name;
  int ranks;
  ParallelConfig parallel;
  const char* model;  // which of models()
};
std::ostream& operator<<(std::ostream& out, const Layout& layout) {
  return out << layout.name;
}

/// Sizes that hardly anything divides: 5 blocks, 6 heads, a vocabulary of 90 in 96 rows.
ModelConfig uneven_model(const std::string& kind) {
  ModelConfig m;
  m.layers = 5, m.heads = 6, m.width = 48, m.context = 32, m.vocab = 96, m.true_vocab = 90;
  m.ffn = 190;
  m.dropout = 0.1;
  if (kind == "untied")
    m.tied = false, m.kv_heads = 2;  // fewer key/value heads than some layouts have tensor ranks
  if (kind == "recompute") m.recompute = "full";
  return m;
}

constexpr int kSteps = unless_sanitized(20, 5);

class LayoutTest : public ::testing::TestWithParam<Layout> {
 protected:
  static void SetUpTestSuite() {
    folder() = fs::temp_directory_path() / ("trireme-layouts-" + std::to_string(getpid()));
    fs::create_directories(folder());
    for (const char* name : {"train.bin", "valid.bin"}) write_token_file(folder() / name, 6001, squares(90));
  }
  static void TearDownTestSuite() { fs::remove_all(folder()); }
  static fs::path& folder() {
    static fs::path path;
    return path;
  }

  static Config config(const std::string& out, const std::string& model) {
    Config c;
    c.model = uneven_model(model);
    c.data.train = {{(folder() / "train.bin").string(), 1.0}};
    c.data.valid = {{(folder() / "valid.bin").string(), 1.0}};
    c.batch.global = 16, c.batch.micro = 2;
    c.optim.lr = 2e-3;
    c.optim.eps =
        1e-4;  // gradients that are only rounding, as that of the bias of keys, must not be blown up
    c.optim.schedule = {"cosine", 3, 0.1, 0};
    c.run.steps = kSteps;
    c.run.eval_every = 0;
    c.run.device = "cpu";
    c.run.threads = 1;
    c.run.out = (folder() / out).string();
    c.run.tensorboard = false;
    c.checkpoint.every = 0;
    return c;
  }

  struct Outcome {
    std::vector<float> losses, norms;
    Weights weights;
  };

  /// Trains `steps` steps more on `ranks` threads, and writes a checkpoint at the end.
  static Outcome train(const Config& c, int ranks, int steps) {
    Outcome outcome;
    std::mutex mutex;
    LocalWorld(ranks).run([&](Group& world) {
      ASSERT_EQ(world.size(), ranks);
      Trainer trainer(c, world);
      for (int i = 0; i < steps; ++i) {
        const StepMetrics m = trainer.step();
        if (world.rank() == 0) outcome.losses.push_back(m.loss), outcome.norms.push_back(m.grad_norm);
      }
      trainer.save();
    });
    outcome.weights = read_weights(c.run.out);
    return outcome;
  }

  /// The run on one rank, once for each model.
  static const Outcome& reference(const std::string& model) {
    static std::map<std::string, Outcome> found;
    if (!found.contains(model)) found[model] = train(config("one-" + model, model), 1, kSteps);
    return found[model];
  }

  static void expect_same(const Outcome& a, const Outcome& b, size_t first_step = 0) {
    for (size_t i = 0; i < a.losses.size(); ++i) {
      EXPECT_NEAR(a.losses[i], b.losses[i + first_step], 1e-5 * b.losses[i + first_step])
          << "step " << i + 1 + first_step;
      EXPECT_NEAR(a.norms[i], b.norms[i + first_step], 1e-4 * b.norms[i + first_step])
          << "step " << i + 1 + first_step;
    }
    expect_near(a.weights, b.weights, 1e-5);
  }
};

TEST_P(LayoutTest, TrainsTheSameModel) {
  const Layout& layout = GetParam();
  Config c = config(layout.name, layout.model);
  c.parallel = layout.parallel;
  const Outcome& one = reference(layout.model);
  EXPECT_LT(one.losses.back(), one.losses.front() - 0.025 * kSteps);
  expect_same(train(c, layout.ranks, kSteps), one);
}

const Layout kLayouts[] = {
    {"data2", 2, {}, "tied"},
    {"data8", 8, {}, "untied"},
    {"tensor2", 2, {.tensor = 2}, "tied"},
    {"tensor4", 4, {.tensor = 4}, "untied"},
    {"tensor5_uneven_heads", 5, {.tensor = 5}, "tied"},
    {"sequence2", 2, {.tensor = 2, .sequence = true}, "tied"},
    {"sequence4", 4, {.tensor = 4, .sequence = true}, "untied"},
    {"tensor2_in_halves", 2, {.tensor = 2, .overlap = "on"}, "untied"},
    {"sequence4_in_halves", 4, {.tensor = 4, .sequence = true, .overlap = "on"}, "tied"},
    {"context2_sequence2_in_halves", 4, {.context = 2, .tensor = 2, .sequence = true, .overlap = "on"}, "recompute"},
    {"zb_v2_sequence2_in_halves",
     4,
     {.pipeline = 2, .tensor = 2, .sequence = true, .overlap = "on", .schedule = "zb-v"},
     "untied"},
    {"one_f_one_b2_tensor2_in_halves", 4, {.pipeline = 2, .tensor = 2, .overlap = "on", .schedule = "1f1b"}, "tied"},
    {"sequence4_recompute", 4, {.tensor = 4, .sequence = true}, "recompute"},
    {"gpipe2", 2, {.pipeline = 2, .schedule = "gpipe"}, "tied"},
    {"one_f_one_b4", 4, {.pipeline = 4, .schedule = "1f1b"}, "tied"},
    {"one_f_one_b3_given_stages", 3, {.pipeline = 3, .schedule = "1f1b", .stages = {1, 3, 1}}, "untied"},
    {"interleaved2x3", 2, {.pipeline = 2, .schedule = "interleaved", .chunks = 3}, "tied"},
    {"zb_h1_4", 4, {.pipeline = 4, .schedule = "zb-h1"}, "untied"},
    {"zb_h1_recompute", 3, {.pipeline = 3, .schedule = "zb-h1"}, "recompute"},
    {"zb_v3", 3, {.pipeline = 3, .schedule = "zb-v"}, "tied"},
    {"context2", 2, {.context = 2}, "tied"},
    {"context4", 4, {.context = 4}, "untied"},
    {"data2_tensor2", 4, {.tensor = 2}, "tied"},
    {"data2_sequence2_pipeline2",
     8,
     {.pipeline = 2, .tensor = 2, .sequence = true, .schedule = "zb-h1"},
     "tied"},
    {"data2_pipeline3", 6, {.pipeline = 3, .schedule = "1f1b"}, "tied"},
    {"tensor2_zb_v2_data2", 8, {.pipeline = 2, .tensor = 2, .schedule = "zb-v"}, "tied"},
    {"context2_tensor2_sequence", 4, {.context = 2, .tensor = 2, .sequence = true}, "untied"},
    {"context2_pipeline2_data2", 8, {.context = 2, .pipeline = 2, .schedule = "gpipe"}, "tied"},
    {"context2_pipeline2_sequence2",
     8,
     {.context = 2, .pipeline = 2, .tensor = 2, .sequence = true, .schedule = "interleaved"},
     "recompute"},
    {"other_order",
     8,
     {.pipeline = 2,
      .tensor = 2,
      .order = {"tensor", "pipeline", "expert", "context", "data"},
      .sequence = true,
      .schedule = "1f1b"},
     "untied"},
};
INSTANTIATE_TEST_SUITE_P(All, LayoutTest, ::testing::ValuesIn(kLayouts),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(LayoutTest, ARunGoesOnInAnotherLayout) {
  const std::vector<std::pair<int, ParallelConfig>> chain{
      {4, {.tensor = 4, .sequence = true}},
      {3, {.pipeline = 3, .schedule = "zb-v"}},
      {4, {.context = 2, .pipeline = 2, .schedule = "1f1b"}},
      {1, {}},
      {8, {.pipeline = 2, .tensor = 2, .schedule = "zb-h1"}},
  };
  Config c = config("chain", "untied");
  Outcome all;
  for (const auto& [ranks, parallel] : chain) {
    c.parallel = parallel;
    Outcome part = train(c, ranks, kSteps / static_cast<int>(chain.size()));
    all.losses.insert(all.losses.end(), part.losses.begin(), part.losses.end());
    all.norms.insert(all.norms.end(), part.norms.begin(), part.norms.end());
    all.weights = part.weights;
  }
  expect_same(all, reference("untied"));
}

}  // namespace
}  // namespace trireme
