// Ring attention on GPUs, by NCCL where each rank has its own, else through host memory: against attention()
// of whole samples on the host in f32; the same bits each time.
#include <gtest/gtest.h>

#include "comm/device_group.h"
#include "tests/cuda/gpu.h"
#include "tests/parallel/ring_attention_runs.h"

namespace trireme {
namespace {

class RingAttentionCuda : public testing::TestWithParam<RingCase> {
 protected:
  RingResults on_gpus(DType dtype) {
    return runs_.on_a_ring(dtype, Passes::together, [](Group& host, const auto& body) {
      Engine engine(make_cuda_backend({.index = host.rank() % num_cuda_devices(), .tune = false}));
      const auto ring = make_device_group(host, engine.backend(), "ring");
      body(engine, *ring);
    });
  }

  RingRuns runs_{GetParam()};
};

TEST_P(RingAttentionCuda, EqualsAttentionOfTheWholeAndItselfBitForBit) {
  TRIREME_NEEDS_GPUS(1);
  Engine host(make_cpu_backend());
  const RingResults want = runs_.on_one_rank(host, DType::f32);
  for (const auto& [dtype, tolerance] :
       {std::pair{DType::f32, 1e-5}, std::pair{DType::bf16, 1e-2}, std::pair{DType::f16, 3e-3}}) {
    SCOPED_TRACE(name_of(dtype));
    const RingResults got = on_gpus(dtype), again = on_gpus(dtype);
    EXPECT_LE(relative_difference(got.out, want.out), tolerance);
    EXPECT_LE(relative_difference(got.d_qkv, want.d_qkv), tolerance);
    EXPECT_EQ(got.out, again.out);
    EXPECT_EQ(got.d_qkv, again.d_qkv);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, RingAttentionCuda,
                         testing::Values(RingCase{2, {2, 168, 4, 2, 20, true}},
                                         RingCase{2, {1, 512, 4, 4, 64, true}},
                                         RingCase{2, {2, 140, 4, 2, 128, false}},
                                         RingCase{3, {1, 390, 6, 2, 64, true}},
                                         RingCase{4, {2, 8, 2, 1, 256, true}}),
                         [](const auto& info) { return describe(info.param); });

}  // namespace
}  // namespace trireme
