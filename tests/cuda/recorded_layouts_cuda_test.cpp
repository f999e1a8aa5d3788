// A recorded step of any layout is the step itself: its exchanges are called between the pieces that are replayed.
#include <gmock/gmock.h>

#include "tests/cuda/layouts_fixture.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class RecordedLayoutsCuda : public LayoutsOnGpus {};

TEST_P(RecordedLayoutsCuda, AReplayedStepIsTheStepItself) {
  const auto outcome = [](const char* cuda_graph, Config c) {
    c.parallel = GetParam().parallel;
    c.run.cuda_graph = cuda_graph;
    return train(c, GetParam().ranks);
  };
  const Outcome launched = outcome("off", config("f32", "launched"));
  ::testing::internal::CaptureStdout();
  const Outcome replayed = outcome("auto", config("f32", "replayed"));
  EXPECT_THAT(::testing::internal::GetCapturedStdout(), Not(HasSubstr("launched one by one")));
  EXPECT_EQ(launched.num_replaying, 0);
  EXPECT_EQ(replayed.num_replaying, GetParam().ranks);
  EXPECT_LT(launched.losses.back(), launched.losses.front());
  EXPECT_EQ(replayed.losses, launched.losses);
  EXPECT_EQ(replayed.weights, launched.weights);
}

INSTANTIATE_TEST_SUITE_P(All, RecordedLayoutsCuda, ::testing::ValuesIn(kLayouts),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace trireme
