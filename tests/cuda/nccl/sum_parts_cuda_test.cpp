// The kernel that sums ranks' parts, on one GPU: every rank's place among the parts, all types, lengths that nothing divides.
#include "comm/nccl/sum_parts.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/backend/cuda/cuda_backend.h"
#include "core/ops/elementwise.h"
#include "tests/cuda/gpu.h"

namespace trireme::comm {
namespace {

/// What rank `rank` has at `i`: small whole numbers, whose sums all types hold.
float value_of(int rank, int64_t i) { return static_cast<float>((i * 7 + rank * 13) % 31 - 15); }

class SumPartsCuda : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override { TRIREME_NEEDS_GPUS(1); }
};

TEST_P(SumPartsCuda, AddsInTheOrderOfRanks) {
  Engine engine(make_cuda_backend());
  Context ctx = engine.context();
  const DType dtype = GetParam();
  const auto make = [&](const std::vector<float>& values) {
    const Tensor t = ctx.from_host<float>(values, {static_cast<int64_t>(values.size())});
    if (dtype == DType::f32) return t;
    Tensor low = ctx.empty(t.shape(), dtype);
    ctx.kernel<CastKernel>()(ctx, t, low);
    return low;
  };
  const auto read = [&](const Tensor& t) {
    Tensor full = t;
    if (dtype != DType::f32) {
      full = ctx.empty(t.shape());
      ctx.kernel<CastKernel>()(ctx, t, full);
    }
    std::vector<float> values(static_cast<size_t>(t.numel()));
    ctx.backend->copy(values.data(), full.raw(), full.bytes(), *ctx.stream);
    ctx.stream->synchronize();
    return values;
  };
  for (const int ranks : {2, 3, 8})
    for (const int64_t count : {1, 129, 4096, 300'007}) {
      const int64_t stride = (count + 127) / 128 * 128;  // elements
      for (int rank = 0; rank < ranks; ++rank) {
        std::vector<float> own(static_cast<size_t>(count)), others(static_cast<size_t>(stride * (ranks - 1)), NAN);
        for (int64_t i = 0; i < count; ++i) own[static_cast<size_t>(i)] = value_of(rank, i);
        for (int peer = 0; peer < ranks; ++peer)
          for (int64_t i = 0; i < count && peer != rank; ++i)
            others[static_cast<size_t>((peer < rank ? peer : peer - 1) * stride + i)] = value_of(peer, i);
        const Tensor mine = make(own), received = make(others), copy = make(std::vector<float>(own.size(), NAN));
        sum_parts({.own = mine.raw(),
                   .received = received.raw(),
                   .stride = static_cast<size_t>(stride) * size_of(dtype),
                   .rank = rank,
                   .num_ranks = ranks,
                   .dtype = dtype,
                   .count = static_cast<size_t>(count)},
                  0.5f, mine.raw(), copy.raw(), cuda::raw_stream(ctx));
        const std::vector<float> found = read(mine), also = read(copy);
        for (int64_t i = 0; i < count; ++i) {
          float sum = 0;
          for (int r = 0; r < ranks; ++r) sum += value_of(r, i);
          ASSERT_EQ(found[static_cast<size_t>(i)], 0.5f * sum) << "rank " << rank << " of " << ranks << ", " << i << " of " << count;
        }
        EXPECT_EQ(also, found);
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Types, SumPartsCuda, ::testing::Values(DType::f32, DType::bf16, DType::f16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace trireme::comm
