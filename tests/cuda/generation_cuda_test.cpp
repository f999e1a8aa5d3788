// Generation on GPUs that share the work; where there are fewer than ranks, they share the GPUs too.
#include "tests/cuda/gpu.h"
#include "tests/models/generation_runs.h"

namespace trireme {
namespace {

class GenerationCuda : public ::testing::TestWithParam<GenerationCase> {
 protected:
  void SetUp() override { TRIREME_NEEDS_GPUS(1); }
};

TEST_P(GenerationCuda, LogitsAreThoseOfOneRank) {
  const GenerationRuns runs([](int rank) { return make_cuda_backend({.index = rank % num_cuda_devices()}); });
  for (const int64_t prompt : {1, 5, 24})
    runs.expect_logits_of_one_rank(GetParam(), prompt, GetParam().dtype == DType::f32 ? 1e-4f : 3e-2f);
}

const GenerationCase kCases[] = {
    {"tensor2", {.tensor = 2}, 2},
    {"pipeline2", {.pipeline = 2}, 2},
    {"context2", {.context = 2}, 2},
    {"context2_bf16", {.context = 2}, 2, DType::bf16},
    {"context2_tensor2", {.context = 2, .tensor = 2}, 4},
    {"context3", {.context = 3}, 3},
};
INSTANTIATE_TEST_SUITE_P(All, GenerationCuda, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace trireme
