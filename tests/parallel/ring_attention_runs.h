// Runs attention of whole samples on one rank and on a ring of ranks that are threads, and hands over the
// results as those of whole samples, for the tests of hosts and of GPUs.
#pragma once

#include <cmath>
#include <string>

#include "comm/local/local_world.h"
#include "core/tape.h"
#include "parallel/context_chunks.h"
#include "parallel/ring_attention.h"
#include "tests/core/op_table.h"

namespace trireme {

struct RingCase {
  int ranks;
  AttentionShape shape;  // of whole samples

  friend std::string describe(const RingCase& c) {
    const AttentionShape& s = c.shape;
    return std::to_string(c.ranks) + "ranks_B" + std::to_string(s.batch) + "_T" + std::to_string(s.tokens) +
           "_H" + std::to_string(s.heads) + "_K" + std::to_string(s.kv_heads) + "_D" +
           std::to_string(s.head_dim) + (s.causal ? "_causal" : "_bidirectional");
  }
  friend void PrintTo(const RingCase& c, std::ostream* out) { *out << describe(c); }
};

struct RingResults {
  Values out, d_qkv;
};

class RingRuns {
 public:
  explicit RingRuns(const RingCase& ring_case) : ranks_(ring_case.ranks), shape_(ring_case.shape) {}

  RingResults on_one_rank(Engine& engine, DType dtype) const {
    return run(engine, shape_, dtype, Passes::together, qkv_, d_out_,
               [&](Context& ctx, const Tensor& x) { return attention(ctx, x, shape_); });
  }

  /// `with_rank(host, body)` calls body(engine, ring) for one rank; `host` is its group of host memory.
  template <class WithRank>
  RingResults on_a_ring(DType dtype, Passes passes, const WithRank& with_rank) const {
    RingResults whole{Values(d_out_.size(), NAN), Values(qkv_.size(), NAN)};
    LocalWorld(ranks_).run([&](Group& world) {
      with_rank(world, [&](Engine& engine, Group& ring) {
        ASSERT_EQ(ring.size(), ranks_);
        const ContextChunks chunks{shape_.tokens, ring.size(), ring.rank()};
        AttentionShape local = shape_;
        local.tokens = chunks.local_tokens();
        const RingResults mine =
            run(engine, local, dtype, passes, take_rows(qkv_, chunks), take_rows(d_out_, chunks),
                [&](Context& ctx, const Tensor& x) { return ring_attention(ctx, x, local, ring); });
        put_rows(mine.out, chunks, whole.out);  // ranks write to different rows
        put_rows(mine.d_qkv, chunks, whole.d_qkv);
      });
    });
    return whole;
  }

 private:
  /// Both passes over rows of `s`, by `attend`.
  template <class Attend>
  RingResults run(Engine& engine, const AttentionShape& s, DType dtype, Passes passes, const Values& qkv,
                  const Values& d_out, const Attend& attend) const {
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
    const Tensor input = tape.watch(tensor(qkv, s.qkv_width()));
    const Values before = values(input);
    const Tensor out = attend(ctx, input);
    const Tensor seed = tensor(d_out, s.heads * s.head_dim);
    if (passes == Passes::together) {
      tape.backward(ctx, std::span(&out, 1), {seed});
    } else {
      tape.backward_input(ctx, std::span(&out, 1), {seed});
      tape.backward_weight(ctx);
    }
    EXPECT_EQ(values(input), before) << "the input was written to";
    return {values(out), values(tape.take_grad(input))};
  }

  /// f(offset in whole samples, offset in the rank's part, count) for runs of elements, given how many the
  /// samples have.
  template <class F>
  void for_rows(size_t num_elements, const ContextChunks& chunks, const F& f) const {
    const int64_t width = static_cast<int64_t>(num_elements) / (shape_.batch * shape_.tokens);
    const int64_t local = chunks.local_tokens();
    for (int64_t b = 0; b < shape_.batch; ++b)
      for (int64_t t = 0; t < local; ++t)
        f((b * shape_.tokens + chunks.position(t)) * width, (b * local + t) * width, width);
  }
  Values take_rows(const Values& whole, const ContextChunks& chunks) const {
    Values part(whole.size() / static_cast<size_t>(chunks.ranks));
    for_rows(whole.size(), chunks, [&](int64_t from, int64_t to, int64_t count) {
      std::copy_n(whole.begin() + from, count, part.begin() + to);
    });
    return part;
  }
  void put_rows(const Values& part, const ContextChunks& chunks, Values& whole) const {
    for_rows(whole.size(), chunks, [&](int64_t to, int64_t from, int64_t count) {
      std::copy_n(part.begin() + from, count, whole.begin() + to);
    });
  }

  int ranks_;
  AttentionShape shape_;
  const Values qkv_ = OpRun::random_values({shape_.batch * shape_.tokens, shape_.qkv_width()}, 1);
  const Values d_out_ =
      OpRun::random_values({shape_.batch * shape_.tokens, shape_.heads* shape_.head_dim}, 2);
};

}  // namespace trireme
