// Attention on a GPU against the host's in f32: through cuDNN and through our own kernels, outputs,
// gradients, generation with a cache; the same bits twice; which plans cuDNN made. (Finite differences and
// the choice between the two: op_table_test.cpp.)
#include <cuda_runtime.h>
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>
#include <vector>

#include "core/backend/cuda/attention_cudnn.h"
#include "core/backend/cuda/attention_flash.h"
#include "core/backend/cuda/cuda_backend.h"
#include "core/ops/attention.h"
#include "core/rng.h"

namespace trireme {
namespace {

using cuda::CudnnAttention;

enum class Path { cudnn, flash, mixed };  // mixed: forward by cuDNN, backward by our kernels

struct Case {
  Path path;
  DType dtype;
  AttentionShape shape;
};

std::string describe(const AttentionShape& s) {
  return fmt::format("B{}_T{}_H{}_K{}_D{}_{}", s.batch, s.tokens, s.heads, s.kv_heads, s.head_dim,
                     s.causal ? "causal" : "bidirectional");
}
std::string describe(const Case& c) {
  constexpr const char* kNames[] = {"cudnn", "flash", "mixed"};
  return fmt::format("{}_{}_{}", kNames[static_cast<int>(c.path)], name_of(c.dtype), describe(c.shape));
}
void PrintTo(const Case& c, std::ostream* out) {
  *out << describe(c);
}

/// Standard normal, and exact in `dtype`, so that both devices compute with the same numbers.
std::vector<float> normal_numbers(int64_t count, uint64_t seed, DType dtype) {
  std::vector<float> values(static_cast<size_t>(count));
  const RandomStream stream = make_stream(seed, hash_name("attention_cuda_test"));
  for (size_t i = 0; i < values.size(); ++i) {
    const float x = to_normal(stream.block(i / 4))[i % 4];
    values[i] = dtype == DType::bf16  ? static_cast<float>(bf16(x))
                : dtype == DType::f16 ? static_cast<float>(f16(x))
                                      : x;
  }
  return values;
}

struct Results {
  std::vector<float> out, lse, d_qkv;
};

struct Inputs {
  Inputs(const AttentionShape& s, DType dtype)
      : qkv(normal_numbers(s.batch * s.tokens * s.qkv_width(), 1, dtype)),
        d_out(normal_numbers(s.batch * s.tokens * s.heads * s.head_dim, 2, dtype)) {}
  std::vector<float> qkv, d_out;
};

template <class T>
Tensor upload_as(const Context& ctx, const std::vector<float>& values, const Shape& shape) {
  std::vector<T> stored;
  for (float x : values) stored.push_back(static_cast<T>(x));
  return ctx.from_host<T>(stored, shape);
}
Tensor upload(const Context& ctx, const std::vector<float>& values, const Shape& shape, DType dtype) {
  if (dtype == DType::bf16) return upload_as<bf16>(ctx, values, shape);
  if (dtype == DType::f16) return upload_as<f16>(ctx, values, shape);
  return upload_as<float>(ctx, values, shape);
}
template <class T>
std::vector<float> download_as(const Context& ctx, const Tensor& t) {
  std::vector<T> stored(static_cast<size_t>(t.numel()));
  ctx.backend->copy(stored.data(), t.raw(), t.bytes(), *ctx.stream);
  ctx.stream->synchronize();
  std::vector<float> values;
  for (T x : stored) values.push_back(static_cast<float>(x));
  return values;
}
std::vector<float> download(const Context& ctx, const Tensor& t) {
  if (t.dtype() == DType::bf16) return download_as<bf16>(ctx, t);
  if (t.dtype() == DType::f16) return download_as<f16>(ctx, t);
  return download_as<float>(ctx, t);
}

/// Elements that nothing wrote stay not-a-number.
Tensor poisoned(const Context& ctx, const Shape& shape, DType dtype) {
  return upload(ctx, std::vector<float>(static_cast<size_t>(shape.numel()), NAN), shape, dtype);
}

/// On the host in f32; lse natural.
Results reference(const AttentionShape& s, const Inputs& in) {
  Engine engine(make_cpu_backend());
  Context ctx = engine.context();
  const Tensor qkv = ctx.from_host<float>(in.qkv, {s.batch * s.tokens, s.qkv_width()});
  const Tensor d_out = ctx.from_host<float>(in.d_out, {s.batch * s.tokens, s.heads * s.head_dim});
  Tensor out = ctx.empty(d_out.shape()), lse = ctx.empty({s.batch, s.heads, s.tokens}),
         d_qkv = ctx.empty(qkv.shape());
  ctx.kernel<AttentionForwardKernel>()(ctx, qkv, s, out, lse);
  ctx.kernel<AttentionBackwardKernel>()(ctx, qkv, out, lse, d_out, s, d_qkv);
  Results results{download(ctx, out), download(ctx, lse), download(ctx, d_qkv)};
  for (float& x : results.lse) x *= static_cast<float>(M_LN2);
  return results;
}

/// |a - b| / |b| over elements [begin, end) of each row of `width`; infinite where one of them is not a
/// number.
double relative_difference(const std::vector<float>& a, const std::vector<float>& b, int64_t width,
                           int64_t begin, int64_t end) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0.0, norm = 0.0;
  for (size_t row = 0; row < b.size(); row += static_cast<size_t>(width))
    for (size_t i = row + static_cast<size_t>(begin); i < row + static_cast<size_t>(end); ++i) {
      difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
      norm += std::pow(static_cast<double>(b[i]), 2);
    }
  return std::isfinite(difference) ? std::sqrt(difference / (norm + 1e-30))
                                   : std::numeric_limits<double>::infinity();
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class AttentionOnGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (num_cuda_devices() == 0) GTEST_SKIP() << "not run: this machine shows no NVIDIA GPU";
    if (!engine_) engine_ = std::make_unique<Engine>(make_cuda_backend());
    ctx_ = engine_->context();
    cudnn().options = {};
  }
  static void TearDownTestSuite() { engine_.reset(); }
  CudnnAttention& cudnn() { return engine_->backend().state<CudnnAttention>(); }

  bool forward(Path path, const Tensor& qkv, const AttentionShape& s, Tensor& out, Tensor& lse) {
    if (path != Path::flash) return cudnn().forward(ctx_, qkv, s, out, lse);
    cuda::flash_forward(ctx_, qkv, s, out, lse);
    return true;
  }
  bool backward(Path path, const Tensor& qkv, const Tensor& out, const Tensor& lse, const Tensor& d_out,
                const AttentionShape& s, Tensor& d_qkv) {
    if (path == Path::cudnn) return cudnn().backward(ctx_, qkv, out, lse, d_out, s, d_qkv);
    cuda::flash_backward(ctx_, qkv, out, lse, d_out, s, d_qkv);
    return true;
  }
  /// Both passes of `c`; where cuDNN declines the test fails, and nothing is returned.
  Results run(const Case& c, const Inputs& in) {
    const AttentionShape& s = c.shape;
    const Tensor qkv = upload(ctx_, in.qkv, {s.batch * s.tokens, s.qkv_width()}, c.dtype);
    const Tensor d_out = upload(ctx_, in.d_out, {s.batch * s.tokens, s.heads * s.head_dim}, c.dtype);
    Tensor out = poisoned(ctx_, d_out.shape(), c.dtype), d_qkv = poisoned(ctx_, qkv.shape(), c.dtype);
    Tensor lse = poisoned(ctx_, {s.batch, s.heads, s.tokens}, DType::f32);
    if (!forward(c.path, qkv, s, out, lse) || !backward(c.path, qkv, out, lse, d_out, s, d_qkv)) {
      ADD_FAILURE() << describe(c) << "\n" << cudnn().report();
      return {};
    }
    return {download(ctx_, out), download(ctx_, lse), download(ctx_, d_qkv)};
  }
  /// Relative to the norms of out, lse, dq, dk and dv.
  void expect_close(const Results& got, const Results& want, const AttentionShape& s, double tolerance) {
    if (got.out.empty()) return;
    const auto difference = [&](int64_t begin, int64_t end) {
      return relative_difference(got.d_qkv, want.d_qkv, s.qkv_width(), begin * s.head_dim, end * s.head_dim);
    };
    EXPECT_LE(relative_difference(got.out, want.out, s.head_dim, 0, s.head_dim), tolerance);
    EXPECT_LE(relative_difference(got.lse, want.lse, s.tokens, 0, s.tokens), 1e-5);
    EXPECT_LE(difference(s.heads + s.kv_heads, s.heads + 2 * s.kv_heads), tolerance) << "dv";
    if (s.tokens == 1) return;  // a single probability: its gradient is zero
    EXPECT_LE(difference(0, s.heads), tolerance) << "dq";
    EXPECT_LE(difference(s.heads, s.heads + s.kv_heads), tolerance) << "dk";
  }

  static inline std::unique_ptr<Engine> engine_;  // of a suite: cuDNN's plans take time
  Context ctx_;
};

class AttentionCuda : public AttentionOnGpu, public testing::WithParamInterface<Case> {};

/// Of sums over values that were rounded to the type, among them, in cuDNN, the probabilities.
double tolerance_of(DType dtype) {
  return dtype == DType::bf16 ? 1e-2 : dtype == DType::f16 ? 3e-3 : 1e-5;
}

TEST_P(AttentionCuda, EqualsTheHostAndItselfBitForBit) {
  const Case c = GetParam();
  const Inputs in(c.shape, c.dtype);
  const Results want = reference(c.shape, in), first = run(c, in);
  expect_close(first, want, c.shape, tolerance_of(c.dtype));
  for (int i = 0; i < 3; ++i) {
    const Results again = run(c, in);
    EXPECT_TRUE(same_bits(again.out, first.out));
    EXPECT_TRUE(same_bits(again.lse, first.lse));
    EXPECT_TRUE(same_bits(again.d_qkv, first.d_qkv));
  }
  if (c.path != Path::cudnn) return;
  SCOPED_TRACE("not deterministic");
  cudnn().options.deterministic = false;
  expect_close(run(c, in), want, c.shape, tolerance_of(c.dtype));
}

std::vector<Case> cases() {
  const AttentionShape shapes[] = {
      {2, 37, 3, 3, 64, true},  {1, 1024, 12, 12, 64, true}, {1, 256, 8, 2, 128, true},
      {2, 70, 2, 2, 64, false}, {1, 200, 4, 2, 80, true},    {1, 130, 2, 2, 40, false},
      {2, 193, 6, 1, 96, true}, {1, 2, 2, 2, 64, true},      {1, 150, 2, 1, 256, true},
  };
  std::vector<Case> all;
  for (const AttentionShape& s : shapes)
    for (DType dtype : {DType::bf16, DType::f16})
      for (Path path : {Path::cudnn, Path::flash}) all.push_back({path, dtype, s});
  all.push_back({Path::mixed, DType::bf16, {2, 100, 4, 2, 64, true}});
  for (const AttentionShape& s :
       {AttentionShape{2, 37, 3, 3, 64, true}, AttentionShape{2, 37, 3, 3, 19, true},
        AttentionShape{2, 70, 2, 2, 33, false}, AttentionShape{1, 67, 6, 2, 16, true},
        AttentionShape{1, 300, 4, 2, 128, true}, AttentionShape{1, 70, 2, 1, 256, false},
        AttentionShape{3, 1, 2, 2, 64, true}, AttentionShape{1, 64, 1, 1, 1, true}})
    all.push_back({Path::flash, DType::f32, s});
  all.push_back({Path::flash, DType::bf16, {1, 100, 3, 3, 33, true}});
  return all;
}
INSTANTIATE_TEST_SUITE_P(Cases, AttentionCuda, testing::ValuesIn(cases()),
                         [](const auto& info) { return describe(info.param); });

using AttentionPlans = AttentionOnGpu;

TEST_F(AttentionPlans, CudnnDoesWhatTrainingNeeds) {
  const AttentionShape s{2, 1024, 12, 12, 64, true};
  const Inputs in(s, DType::bf16);
  const Results want = reference(s, in);
  for (const bool deterministic : {true, false}) {
    cudnn().options.deterministic = deterministic;
    expect_close(run({Path::cudnn, DType::bf16, s}, in), want, s, tolerance_of(DType::bf16));
  }
  fmt::print("cuDNN's plans, from graphs of products, masks and reductions:\n{}", cudnn().report());
}

// A batch in parts, then heads in parts; also where only some of them begin on 16 bytes.
TEST_F(AttentionPlans, PartsEqualTheWhole) {
  for (const int64_t tokens : {256, 250, 129}) {
    const AttentionShape s{4, tokens, 6, 3, 64, true};
    const Inputs in(s, DType::bf16);
    const Results want = reference(s, in);
    for (const int64_t heads : {24, 12, 6, 4, 2, 1}) {
      SCOPED_TRACE(fmt::format("{} tokens, {} heads a part", tokens, heads));
      cudnn().options.max_part_bytes = heads * 256 * 256 * 2;
      expect_close(run({Path::cudnn, DType::bf16, s}, in), want, s, tolerance_of(DType::bf16));
    }
  }
}

TEST_F(AttentionPlans, BackwardThatTakesTooMuchMemoryIsDeclined) {
  const AttentionShape s{1, 8192, 1, 1, 64, true};
  const Tensor qkv = ctx_.zeros({s.tokens, s.qkv_width()}, DType::bf16), d_out = ctx_.zeros({s.tokens, 64}, DType::bf16);
  Tensor out = ctx_.empty({s.tokens, 64}, DType::bf16), lse = ctx_.empty({1, 1, s.tokens}), d_qkv = ctx_.empty(qkv.shape(), DType::bf16);
  ASSERT_TRUE(cudnn().forward(ctx_, qkv, s, out, lse));
  cudnn().options.max_part_bytes = int64_t{1} << 20;  // a head's matrix takes 128 MiB
  ctx_.backend->take_notes();
  EXPECT_FALSE(cudnn().backward(ctx_, qkv, out, lse, d_out, s, d_qkv));
  EXPECT_THAT(ctx_.backend->take_notes(), testing::ElementsAre(testing::HasSubstr("goes by Trireme's own kernels")));
  cudnn().options.max_part_bytes = int64_t{2} << 30;
  EXPECT_TRUE(cudnn().backward(ctx_, qkv, out, lse, d_out, s, d_qkv));
}

TEST_F(AttentionPlans, DeterministicAtFullSize) {
  const AttentionShape s{8, 1024, 12, 4, 64, true};
  const Inputs in(s, DType::bf16);
  const Results first = run({Path::cudnn, DType::bf16, s}, in),
                second = run({Path::cudnn, DType::bf16, s}, in);
  EXPECT_TRUE(same_bits(first.d_qkv, second.d_qkv));
  cudnn().options.deterministic = false;
  const Results third = run({Path::cudnn, DType::bf16, s}, in),
                fourth = run({Path::cudnn, DType::bf16, s}, in);
  fmt::print("with atomic additions, two runs give the same bits here: {}\n",
             same_bits(third.d_qkv, fourth.d_qkv));
}

TEST_F(AttentionPlans, DeclinesLeaveNoError) {
  for (const AttentionShape& s :
       {AttentionShape{1, 10, 2, 2, 20, true}, AttentionShape{2, 1, 2, 2, 64, true}}) {
    const Tensor qkv = poisoned(ctx_, {s.batch * s.tokens, s.qkv_width()}, DType::bf16);
    Tensor out = ctx_.empty({s.batch * s.tokens, s.heads * s.head_dim}, DType::bf16),
           lse = ctx_.empty({s.batch, s.heads, s.tokens});
    EXPECT_FALSE(cudnn().forward(ctx_, qkv, s, out, lse));
    EXPECT_NO_THROW(attention(ctx_, qkv, s));
  }
}

TEST_F(AttentionPlans, NotANumberIsNotHidden) {
  const AttentionShape s{1, 80, 1, 1, 16, true};
  Inputs in(s, DType::bf16);
  in.qkv[static_cast<size_t>(70 * s.qkv_width() + 16)] = NAN;  // a key: only queries from 70 on see it
  for (const Path path : {Path::cudnn, Path::flash}) {
    const Results got = run({path, DType::bf16, s}, in);
    for (int64_t t = 0; t < s.tokens && !got.out.empty(); ++t)
      EXPECT_EQ(std::isnan(got.out[static_cast<size_t>(t * 16)]), t >= 70)
          << "path " << static_cast<int>(path) << ", token " << t;
  }
}

struct Pieces {
  DType dtype;
  AttentionShape full;
  std::vector<int64_t> tokens;  // of each call
};

/// Feeds the sequence to attention_cached() in pieces and compares every piece with the rows of the whole.
class AttentionCachedCuda : public AttentionOnGpu {
 protected:
  void expect_equals_full(const Pieces& p) {
    const AttentionShape& full = p.full;
    const Inputs in(full, p.dtype);
    const std::vector<float> want = reference(full, in).out;
    const Shape cache_shape{full.batch, full.tokens + 5, full.kv_heads, full.head_dim};
    KvCache cache{poisoned(ctx_, cache_shape, p.dtype), poisoned(ctx_, cache_shape, p.dtype), 0};
    const auto rows = [&](const std::vector<float>& x, int64_t begin, int64_t end) {
      const int64_t width = static_cast<int64_t>(x.size()) / (full.batch * full.tokens);
      std::vector<float> out;
      for (int64_t b = 0; b < full.batch; ++b)
        out.insert(out.end(), x.begin() + (b * full.tokens + begin) * width,
                   x.begin() + (b * full.tokens + end) * width);
      return out;
    };
    for (const int64_t tokens : p.tokens) {
      AttentionShape s = full;
      s.tokens = tokens;
      const int64_t begin = cache.length, end = begin + tokens;
      const Tensor x =
          upload(ctx_, rows(in.qkv, begin, end), {full.batch * tokens, full.qkv_width()}, p.dtype);
      const std::vector<float> got = download(ctx_, attention_cached(ctx_, x, s, cache));
      EXPECT_LE(relative_difference(got, rows(want, begin, end), full.head_dim, 0, full.head_dim),
                tolerance_of(p.dtype))
          << describe(full) << ", tokens " << begin << " to " << end;
    }
    EXPECT_EQ(cache.length, full.tokens);
  }
};

TEST_F(AttentionCachedCuda, EqualsFullForward) {
  expect_equals_full({DType::f32, {1, 6, 2, 2, 64, true}, {1, 1, 1, 1, 1, 1}});
  expect_equals_full({DType::f32, {2, 47, 4, 2, 20, true}, {13, 1, 1, 3, 20, 2, 7}});
  expect_equals_full({DType::f32, {1, 600, 3, 3, 64, true}, {250, 1, 8, 9, 1, 200, 2, 1, 128}});
  expect_equals_full({DType::f32, {1, 90, 20, 1, 128, true}, {1, 70, 4, 15}});
  expect_equals_full({DType::f32, {1, 300, 2, 2, 256, true}, {298, 1, 1}});
  expect_equals_full({DType::bf16, {2, 560, 12, 2, 40, true}, {530, 1, 1, 28}});
  expect_equals_full({DType::bf16, {1, 1100, 12, 12, 64, true}, {1000, 1, 99}});
  expect_equals_full({DType::f16, {1, 300, 2, 2, 17, true}, {298, 1, 1}});
}

/// Milliseconds of one of `runs` queued calls, after some to warm up.
template <class F>
double time_ms(cudaStream_t stream, int runs, const F& f) {
  for (int i = 0; i < 3; ++i) f();
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  cudaEventRecord(begin, stream);
  for (int i = 0; i < runs; ++i) f();
  cudaEventRecord(end, stream);
  cudaEventSynchronize(end);
  float ms = 0.0f;
  cudaEventElapsedTime(&ms, begin, end);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return ms / runs;
}

// Printed, not asserted.
using AttentionSpeed = AttentionOnGpu;

TEST_F(AttentionSpeed, ForwardAndBackward) {
  const cudaStream_t stream = cuda::raw_stream(ctx_);
  for (const AttentionShape& s :
       {AttentionShape{64, 1024, 12, 12, 64, true}, AttentionShape{8, 1024, 25, 25, 64, true},
        AttentionShape{8, 2048, 32, 8, 64, true}, AttentionShape{4, 4096, 32, 32, 128, true}}) {
    const std::vector<float> some = normal_numbers(1 << 18, 1, DType::bf16);
    const auto filled = [&](const Shape& shape) {
      const Tensor t = ctx_.empty(shape, DType::bf16), part = upload(ctx_, some, {1 << 18}, DType::bf16);
      for (int64_t at = 0; at < t.numel(); at += part.numel())
        ctx_.backend->copy(t.flat_view(at, {std::min(part.numel(), t.numel() - at)}).raw(), part.raw(),
                           static_cast<size_t>(std::min(part.numel(), t.numel() - at)) * 2, *ctx_.stream);
      return t;
    };
    const Tensor qkv = filled({s.batch * s.tokens, s.qkv_width()}),
                 d_out = filled({s.batch * s.tokens, s.heads * s.head_dim});
    Tensor out = ctx_.empty(d_out.shape(), DType::bf16), lse = ctx_.empty({s.batch, s.heads, s.tokens});
    Tensor d_qkv = ctx_.empty(qkv.shape(), DType::bf16);
    const auto run_backward = [&] { return backward(Path::cudnn, qkv, out, lse, d_out, s, d_qkv); };
    fmt::print("{}: cuDNN forward {:.3f} ms", describe(s),
               time_ms(stream, 20, [&] { forward(Path::cudnn, qkv, s, out, lse); }));
    for (const int64_t mib : {48, 128, 256, 512, 100'000}) {
      cudnn().options = {.deterministic = true, .max_part_bytes = mib << 20};
      fmt::print(", backward in parts of {} MiB {:.3f}", mib, time_ms(stream, 20, run_backward));
    }
    cudnn().options.deterministic = false;
    fmt::print(", not deterministic {:.3f} ms", time_ms(stream, 20, run_backward));
    const double flash_forward_ms = time_ms(stream, 3, [&] { forward(Path::flash, qkv, s, out, lse); });
    const double flash_backward_ms =
        time_ms(stream, 3, [&] { backward(Path::flash, qkv, out, lse, d_out, s, d_qkv); });
    fmt::print("; own kernels {:.3f} and {:.3f} ms\n", flash_forward_ms, flash_backward_ms);
  }
  fmt::print("{}", cudnn().report());
}

}  // namespace
}  // namespace trireme
