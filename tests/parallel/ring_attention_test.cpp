// Ring attention on ranks that are threads against attention() of whole samples: outputs and gradients, the same bits
// each time, with the passes apart, and on a device that works on its own time.
#include "parallel/ring_attention.h"

#include <gmock/gmock.h>

#include "comm/local/local_world.h"
#include "comm/staged_group.h"
#include "core/ops/attention_block.h"
#include "core/ops/elementwise.h"
#include "core/tape.h"
#include "parallel/context_chunks.h"
#include "tests/core/op_table.h"
#include "tests/parallel/queued_kernels.h"

namespace trireme {
namespace {

struct Case {
  int ranks;
  AttentionShape shape;  // of whole samples
};

std::string describe(const Case& c) {
  const AttentionShape& s = c.shape;
  return std::to_string(c.ranks) + "ranks_B" + std::to_string(s.batch) + "_T" + std::to_string(s.tokens) + "_H" +
         std::to_string(s.heads) + "_K" + std::to_string(s.kv_heads) + "_D" + std::to_string(s.head_dim) +
         (s.causal ? "_causal" : "_bidirectional");
}

/// f(row of whole samples [B * T, width], row of the rank's part [B * T / c, width]) for all of the part.
template <class F>
void for_local_rows(const AttentionShape& whole, const ContextChunks& chunks, const F& f) {
  const int64_t local = chunks.local_tokens();
  for (int64_t b = 0; b < whole.batch; ++b)
    for (int64_t t = 0; t < local; ++t) f(b * whole.tokens + chunks.position(t), b * local + t);
}
Values take_rows(const Values& whole, int64_t width, const AttentionShape& shape, const ContextChunks& chunks) {
  Values local(whole.size() / static_cast<size_t>(chunks.ranks));
  for_local_rows(shape, chunks, [&](int64_t from, int64_t to) {
    std::copy_n(whole.begin() + from * width, width, local.begin() + to * width);
  });
  return local;
}
void put_rows(const Values& local, int64_t width, const AttentionShape& shape, const ContextChunks& chunks, Values& whole) {
  for_local_rows(shape, chunks, [&](int64_t to, int64_t from) {
    std::copy_n(local.begin() + from * width, width, whole.begin() + to * width);
  });
}

struct Results {
  Values out, d_qkv;
};

class RingAttentionTest : public testing::TestWithParam<Case> {
 protected:
  const AttentionShape shape = GetParam().shape;
  const int64_t out_width = shape.heads * shape.head_dim;
  const Values qkv = OpRun::random_values({shape.batch * shape.tokens, shape.qkv_width()}, 1);
  const Values d_out = OpRun::random_values({shape.batch * shape.tokens, out_width}, 2);

  /// Both passes over rows of `s`, by `attend`.
  template <class Attend>
  Results run(Engine& engine, const AttentionShape& s, DType dtype, Passes passes, const Values& x, const Values& dy,
              const Attend& attend) {
    Context plain = engine.context(), ctx = plain;
    const auto tensor = [&](const Values& values, int64_t width) {
      return cast(plain, plain.from_host<float>(values, {s.batch * s.tokens, width}), dtype);
    };
    const auto values = [&](const Tensor& t) {
      const Tensor f = cast(plain, t.detach(), DType::f32);
      Values host(static_cast<size_t>(f.numel()));
      plain.backend->copy(host.data(), f.raw(), f.bytes(), *plain.stream);
      plain.stream->synchronize();
      return host;
    };
    Tape tape;
    ctx.tape = &tape;
    const Tensor input = tape.watch(tensor(x, s.qkv_width()));
    const Tensor out = attend(ctx, input);
    if (passes == Passes::together) {
      tape.backward(ctx, std::span(&out, 1), {tensor(dy, out_width)});
    } else {
      tape.backward_input(ctx, std::span(&out, 1), {tensor(dy, out_width)});
      tape.backward_weight(ctx);
    }
    EXPECT_EQ(values(input), x) << "the input was written to";
    return {values(out), values(tape.take_grad(input))};
  }

  Results on_one_rank(DType dtype) {
    Engine engine(make_cpu_backend(1));
    return run(engine, shape, dtype, Passes::together, qkv, d_out,
               [&](Context& ctx, const Tensor& x) { return attention(ctx, x, shape); });
  }

  Results on_a_ring(DType dtype, Passes passes = Passes::together) {
    return on_a_ring_with([&](Group& ring, const auto& body) {
      Engine engine(make_cpu_backend(1));
      body(engine, ring);
    }, dtype, passes);
  }
  Results on_a_ring_of_devices(DType dtype) {
    return on_a_ring_with([&](Group& host, const auto& body) {
      Engine engine(make_fake_device<AddKernel, CastKernel, CopyColumnsKernel, AttentionBlockForwardKernel,
                                     AttentionMergeKernel, AttentionBlockBackwardKernel>(host.rank()));
      body(engine, *comm::StagedGroup::make(host.duplicate("ring"), engine.backend()));
    }, dtype, Passes::together);
  }

 private:
  /// `with_rank(host, body)` calls body(engine, ring) for one rank.
  template <class WithRank>
  Results on_a_ring_with(const WithRank& with_rank, DType dtype, Passes passes) {
    Results whole{Values(d_out.size(), NAN), Values(qkv.size(), NAN)};
    LocalWorld(GetParam().ranks).run([&](Group& world) {
      with_rank(world, [&](Engine& engine, Group& ring) {
        ASSERT_EQ(ring.size(), GetParam().ranks);
        const ContextChunks chunks{shape.tokens, ring.size(), ring.rank()};
        AttentionShape local = shape;
        local.tokens = chunks.local_tokens();
        const Results mine = run(engine, local, dtype, passes, take_rows(qkv, shape.qkv_width(), shape, chunks),
                                 take_rows(d_out, out_width, shape, chunks),
                                 [&](Context& ctx, const Tensor& x) { return ring_attention(ctx, x, local, ring); });
        put_rows(mine.out, out_width, shape, chunks, whole.out);  // ranks write to different rows
        put_rows(mine.d_qkv, shape.qkv_width(), shape, chunks, whole.d_qkv);
      });
    });
    return whole;
  }
};

TEST_P(RingAttentionTest, EqualsAttentionOfTheWhole) {
  const Results want = on_one_rank(DType::f32), got = on_a_ring(DType::f32);
  EXPECT_LE(relative_difference(got.out, want.out), 5e-7);
  EXPECT_LE(relative_difference(got.d_qkv, want.d_qkv), 5e-7);
}

// Partial results and the gradients that travel are f32: the ring costs no precision.
TEST_P(RingAttentionTest, IsAsExactAsAttentionOfTheWholeInBf16) {
  const Results exact = on_one_rank(DType::f32), whole = on_one_rank(DType::bf16), got = on_a_ring(DType::bf16);
  EXPECT_LE(relative_difference(got.out, exact.out), 1.05 * relative_difference(whole.out, exact.out));
  EXPECT_LE(relative_difference(got.d_qkv, exact.d_qkv), 1.05 * relative_difference(whole.d_qkv, exact.d_qkv));
  EXPECT_LE(relative_difference(got.d_qkv, exact.d_qkv), 0x1p-8);
}

TEST_P(RingAttentionTest, GivesTheSameBitsEachTimeAndWithThePassesApart) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Results first = on_a_ring(dtype), again = on_a_ring(dtype), apart = on_a_ring(dtype, Passes::apart);
    EXPECT_EQ(first.out, again.out);
    EXPECT_EQ(first.d_qkv, again.d_qkv);
    EXPECT_EQ(first.out, apart.out);
    EXPECT_EQ(first.d_qkv, apart.d_qkv);
  }
}

TEST_P(RingAttentionTest, GivesTheSameBitsOnADeviceThatWorksOnItsOwnTime) {
  if (GetParam().ranks == 1) return;  // attention(), without a ring
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Results on_host = on_a_ring(dtype), on_device = on_a_ring_of_devices(dtype);
    EXPECT_EQ(on_host.out, on_device.out);
    EXPECT_EQ(on_host.d_qkv, on_device.d_qkv);
  }
}

std::vector<Case> cases() {
  std::vector<Case> all{{1, {2, 37, 2, 1, 16, true}}};
  for (const int ranks : {2, 3, 4})
    for (const bool causal : {true, false}) {
      all.push_back({ranks, {2, 24 * 7, 4, 2, 20, causal}});
      all.push_back({ranks, {1, 2 * ranks, 3, 3, 8, causal}});  // chunks of one token
    }
  all.push_back({2, {2, 600, 2, 2, 64, true}});   // several tiles of keys a chunk
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
