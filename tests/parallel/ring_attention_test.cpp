// Ring attention on ranks that are threads against attention() of whole samples: outputs and gradients, the
// same bits each time, with the passes apart, and on a device that works on its own time.
#include "parallel/ring_attention.h"

#include <gtest/gtest.h>

#include "comm/staged_group.h"
#include "core/ops/attention_block.h"
#include "tests/parallel/queued_kernels.h"
#include "tests/parallel/ring_attention_runs.h"

namespace trireme {
namespace {

class RingAttentionTest : public testing::TestWithParam<RingCase> {
 protected:
  RingResults on_one_rank(DType dtype) {
    Engine engine(make_cpu_backend(1));
    return runs_.on_one_rank(engine, dtype);
  }
  RingResults on_a_ring(DType dtype, Passes passes = Passes::together) {
    return runs_.on_a_ring(dtype, passes, [](Group& host, const auto& body) {
      Engine engine(make_cpu_backend(1));
      body(engine, host);
    });
  }
  RingResults on_a_ring_of_devices(DType dtype) {
    return runs_.on_a_ring(dtype, Passes::together, [](Group& host, const auto& body) {
      Engine engine(make_fake_device<AddKernel, CastKernel, CopyColumnsKernel, AttentionBlockForwardKernel,
                                     AttentionMergeKernel, AttentionBlockBackwardKernel>(host.rank()));
      body(engine, *comm::StagedGroup::make(host.duplicate("ring"), engine.backend()));
    });
  }

  RingRuns runs_{GetParam()};
};

TEST_P(RingAttentionTest, EqualsAttentionOfTheWhole) {
  const RingResults want = on_one_rank(DType::f32), got = on_a_ring(DType::f32);
  EXPECT_LE(relative_difference(got.out, want.out), 5e-7);
  EXPECT_LE(relative_difference(got.d_qkv, want.d_qkv), 5e-7);
}

// Partial results and the gradients that travel are f32: the ring costs no precision.
TEST_P(RingAttentionTest, IsAsExactAsAttentionOfTheWholeInBf16) {
  const RingResults exact = on_one_rank(DType::f32), whole = on_one_rank(DType::bf16),
                    got = on_a_ring(DType::bf16);
  EXPECT_LE(relative_difference(got.out, exact.out), 1.05 * relative_difference(whole.out, exact.out));
  EXPECT_LE(relative_difference(got.d_qkv, exact.d_qkv),
            1.05 * relative_difference(whole.d_qkv, exact.d_qkv));
  EXPECT_LE(relative_difference(got.d_qkv, exact.d_qkv), 0x1p-8);
}

TEST_P(RingAttentionTest, GivesTheSameBitsEachTimeAndWithThePassesApart) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const RingResults first = on_a_ring(dtype), again = on_a_ring(dtype),
                      apart = on_a_ring(dtype, Passes::apart);
    EXPECT_EQ(first.out, again.out);
    EXPECT_EQ(first.d_qkv, again.d_qkv);
    EXPECT_EQ(first.out, apart.out);
    EXPECT_EQ(first.d_qkv, apart.d_qkv);
  }
}

TEST_P(RingAttentionTest, GivesTheSameBitsOnADeviceThatWorksOnItsOwnTime) {
  if (GetParam().ranks == 1) return;  // attention(), without a ring
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const RingResults on_host = on_a_ring(dtype), on_device = on_a_ring_of_devices(dtype);
    EXPECT_EQ(on_host.out, on_device.out);
    EXPECT_EQ(on_host.d_qkv, on_device.d_qkv);
  }
}

std::vector<RingCase> cases() {
  std::vector<RingCase> all{{1, {2, 37, 2, 1, 16, true}}};
  for (const int ranks : {2, 3, 4})
    for (const bool causal : {true, false}) {
      all.push_back({ranks, {2, 24 * 7, 4, 2, 20, causal}});
      all.push_back({ranks, {1, 2 * ranks, 3, 3, 8, causal}});  // chunks of one token
    }
  all.push_back({2, {2, 600, 2, 2, 64, true}});  // several tiles of keys a chunk
  all.push_back({3, {2, 21, 2, 2, 16, false}});  // 7 tokens a rank: without a mask they need not be even
  return all;
}
INSTANTIATE_TEST_SUITE_P(Cases, RingAttentionTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return describe(info.param); });

TEST(RingAttention, LayersFollowOneAnotherOnOneRing) {
  LocalWorld(3).run([](Group& ring) {
    ASSERT_EQ(ring.size(), 3);
    Engine engine(make_cpu_backend(1));
    Context ctx = engine.context();
    Tape tape;
    ctx.tape = &tape;
    const AttentionShape s{1, 4, 2, 2, 8, true};
    const Values values = OpRun::random_values({4, s.qkv_width()}, 5 + static_cast<uint64_t>(ring.rank()));
    const Tensor x = tape.watch(ctx.from_host<float>(values, {4, s.qkv_width()}));
    const Tensor sum = add(ctx, ring_attention(ctx, x, s, ring), ring_attention(ctx, x, s, ring));
    tape.backward(ctx, sum);
    const Tensor twice = tape.take_grad(x);

    Tape second;
    ctx.tape = &second;
    const Tensor y = second.watch(x.detach());
    second.backward(ctx, ring_attention(ctx, y, s, ring));
    const Tensor once = second.take_grad(y);
    for (int64_t i = 0; i < once.numel(); ++i) ASSERT_EQ(twice.data<float>()[i], 2 * once.data<float>()[i]);
  });
}

TEST(RingAttention, RefusesChunksOfTwoLengths) {
  LocalWorld(2).run([](Group& ring) {
    ASSERT_EQ(ring.size(), 2);
    Engine engine(make_cpu_backend(1));
    Context ctx = engine.context();
    const AttentionShape s{1, 3, 1, 1, 8, true};
    EXPECT_THROW(ring_attention(ctx, ctx.zeros({3, s.qkv_width()}), s, ring), InternalError);
  });
}

}  // namespace
}  // namespace trireme
