// A recorded step of any layout is the step itself, whether its exchanges are part of it or called between its pieces.
#include <gmock/gmock.h>

#include <array>

#include "tests/cuda/layouts_fixture.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr auto name_of_layout = [](const auto& info) { return std::string(info.param.name); };

class RecordedLayoutsCuda : public LayoutsOnGpus {
 protected:
  /// The replayed one's.
  Outcome expect_the_same(const std::string& mode, const std::string& copy_engines, int64_t micro) const;
};

Outcome RecordedLayoutsCuda::expect_the_same(const std::string& mode, const std::string& copy_engines, int64_t micro) const {
  const auto outcome = [&](const std::string& cuda_graph, Config c) {
    c.parallel = GetParam().parallel;
    c.sync.copy_engines = copy_engines;
    c.batch.micro = micro;
    c.batch.global = std::max(c.batch.global, 2 * micro);
    c.run.cuda_graph = cuda_graph;
    return train(c, GetParam().ranks);
  };
  const Outcome launched = outcome("off", config("f32", "launched"));
  ::testing::internal::CaptureStdout();
  const Outcome replayed = outcome(mode, config("f32", "replayed"));
  EXPECT_THAT(::testing::internal::GetCapturedStdout(), Not(HasSubstr("launched one by one")));
  EXPECT_EQ(launched.num_replaying, 0);
  EXPECT_EQ(replayed.num_replaying, GetParam().ranks);
  EXPECT_LT(launched.losses.back(), launched.losses.front());
  EXPECT_EQ(replayed.losses, launched.losses);
  EXPECT_EQ(replayed.weights, launched.weights);
  return replayed;
}

TEST_P(RecordedLayoutsCuda, AReplayedStepIsTheStepItself) { expect_the_same("auto", "auto", 2); }

INSTANTIATE_TEST_SUITE_P(All, RecordedLayoutsCuda, ::testing::ValuesIn(kLayouts), name_of_layout);

using RecordedByNcclAloneCuda = RecordedLayoutsCuda;

TEST_P(RecordedByNcclAloneCuda, AStepWithItsCollectivesIsTheStepItself) {
  const auto [name, ranks, parallel] = GetParam();
  const bool is_captured = parallel.pipeline == 1 && num_cuda_devices() >= ranks;
  EXPECT_EQ(expect_the_same("auto", "off", /*micro=*/4).num_captured, is_captured ? ranks : 0);
}

TEST_P(RecordedByNcclAloneCuda, AStepBetweenItsCollectivesIsTheStepItself) {
  EXPECT_EQ(expect_the_same("pieces", "off", /*micro=*/4).num_captured, 0);
}

INSTANTIATE_TEST_SUITE_P(All, RecordedByNcclAloneCuda,
                         ::testing::Values(Layout{"data2", 2, {}}, Layout{"tensor2", 2, {.tensor = 2}},
                                           Layout{"sequence2", 2, {.tensor = 2, .sequence = true}},
                                           Layout{"sequence2_zb_h1_2", 4, {.pipeline = 2, .tensor = 2, .sequence = true, .schedule = "zb-h1"}}),
                         name_of_layout);

class RecordedWithCopiesCuda : public RecordedLayoutsCuda {
 protected:
  /// With gradients of data ranks, and activations of so many samples, that are large enough for copies.
  int num_captured(const std::string& mode) const {
    return expect_the_same(mode, "auto", /*micro=*/GetParam().parallel.tensor > 1 ? 64 : 8).num_captured;
  }
};

TEST_P(RecordedWithCopiesCuda, AStepWithItsCopiesIsTheStepItself) {
  const bool is_captured = num_cuda_devices() >= GetParam().ranks;
  EXPECT_EQ(num_captured(GetParam().parallel.tensor > 1 ? "whole" : "auto"), is_captured ? GetParam().ranks : 0);
}

const std::array kOfTensorRanks{Layout{"tensor2", 2, {.tensor = 2}}, Layout{"sequence2", 2, {.tensor = 2, .sequence = true}}};

INSTANTIATE_TEST_SUITE_P(Data, RecordedWithCopiesCuda, ::testing::Values(Layout{"data2", 2, {}}), name_of_layout);
INSTANTIATE_TEST_SUITE_P(Tensor, RecordedWithCopiesCuda, ::testing::ValuesIn(kOfTensorRanks), name_of_layout);

using RecordedBetweenCopiesCuda = RecordedWithCopiesCuda;

TEST_P(RecordedBetweenCopiesCuda, AStepOfTensorRanksIsTheStepItself) { EXPECT_EQ(num_captured("auto"), 0); }

INSTANTIATE_TEST_SUITE_P(Tensor, RecordedBetweenCopiesCuda, ::testing::ValuesIn(kOfTensorRanks), name_of_layout);

}  // namespace
}  // namespace trireme
