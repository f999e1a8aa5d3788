// Layouts in the precisions that GPUs alone have.
#include "tests/cuda/layouts_fixture.h"

namespace trireme {
namespace {

using LayoutsPrecisionCuda = LayoutsOnGpus;

TEST_P(LayoutsPrecisionCuda, LearnTheSameInF16) { expect_near_losses("f16"); }
TEST_P(LayoutsPrecisionCuda, LearnTheSameInTf32) { expect_near_losses("tf32"); }
TEST_P(LayoutsPrecisionCuda, LearnTheSameWithGradientsReducedInBf16) { expect_near_losses("bf16", "compute"); }

const Layout kOneOfEachKind[] = {
    {"data2", 2, {}},
    {"sequence2", 2, {.tensor = 2, .sequence = true}},
    {"zb_h1_2", 2, {.pipeline = 2, .schedule = "zb-h1"}},
    {"context2", 2, {.context = 2}},
};
INSTANTIATE_TEST_SUITE_P(All, LayoutsPrecisionCuda, ::testing::ValuesIn(kOneOfEachKind),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace trireme
