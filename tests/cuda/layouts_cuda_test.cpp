// Layouts of ranks on GPUs train the model that one GPU trains. Two ranks on two GPUs exchange through NCCL; where ranks
// have to share a GPU, through host memory.
#include "tests/cuda/layouts_fixture.h"

namespace trireme {
namespace {

class LayoutsCuda : public LayoutsOnGpus {
 protected:
  void expect_same_model() const {
    const Outcome one = train(config("f32", "one"), 1);
    Config c = config("f32", "layout");
    c.parallel = GetParam().parallel;
    const Outcome found = train(c, GetParam().ranks);
    for (size_t i = 0; i < one.losses.size(); ++i)
      EXPECT_NEAR(found.losses[i], one.losses[i], 1e-5 * one.losses[i]) << "step " << i + 1;
    expect_near(found.weights, one.weights, 1e-5);
  }
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

TEST_P(LayoutsCuda, LearnTheSameInBf16) { expect_near_losses("bf16"); }

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
