// The kernels of softmax over columns that lie on several ranks: a block a row.
#include <cfloat>

#include "core/backend/cuda/device.cuh"
#include "core/backend/cuda/kernels.h"
#include "core/backend/cuda/softmax_rows.h"
#include "core/ops/softmax_part.h"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;

/// The row's columns here, of which the first `used` are no padding; the target's column, -1 where it is not here.
struct Columns {
  int64_t width, used, first_column, vocab;
};
Columns columns_of(const Tensor& logits, const SoftmaxPart& part) {
  return {logits.dim(1), std::clamp<int64_t>(part.vocab - part.first_column, 0, logits.dim(1)), part.first_column, part.vocab};
}

struct Normalizer {
  float max, sum;  // sum of e^(x - max)
};
__device__ inline Normalizer over_warp(Normalizer own) {
  const float max = warp_max(own.max);
  return {max, warp_sum(own.sum * expf(own.max - max))};
}

template <class T>
__global__ void __launch_bounds__(kThreads) sums_kernel(Columns c, const T* logits, const int32_t* targets, float* sums) {
  __shared__ Normalizer of_warp[kWarps];
  const T* row = logits + int64_t{blockIdx.x} * c.width;
  Normalizer n{-FLT_MAX, 0.0f};
  for (int64_t v = threadIdx.x; v < c.used; v += kThreads) {
    const float x = to_float(row[v]), max = fmaxf(n.max, x);
    n = {max, n.sum * expf(n.max - max) + expf(x - max)};
  }
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  n = over_warp(n);
  if (lane == 0) of_warp[warp] = n;
  __syncthreads();
  if (warp > 0) return;
  n = over_warp(lane < kWarps ? of_warp[lane] : Normalizer{-FLT_MAX, 0.0f});
  if (lane > 0) return;
  const int64_t target = targets[blockIdx.x], column = target - c.first_column;
  float* of_row = sums + int64_t{blockIdx.x} * kSoftmaxSums;
  of_row[kSoftmaxMax] = n.max;
  of_row[kSoftmaxSum] = n.sum;
  of_row[kSoftmaxTarget] = target < -1 || target >= c.vocab ? NAN : column >= 0 && column < c.used ? to_float(row[column]) : 0.0f;
}

/// Each thread adds up the ranks' sums itself: there are few.
template <class T>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(Columns c, int64_t ranks, T* logits, const int32_t* targets, const float* sums, float scale, const float* loss_scale,
                    bool gradient, float* losses) {
  const int64_t rows = gridDim.x, n = blockIdx.x, target = targets[n];
  T* row = logits + n * c.width;
  float max = -FLT_MAX, sum = 0.0f, target_logit = 0.0f;
  for (int64_t r = 0; r < ranks; ++r) max = fmaxf(max, sums[(r * rows + n) * kSoftmaxSums + kSoftmaxMax]);
  for (int64_t r = 0; r < ranks; ++r) {
    const float* of_rank = sums + (r * rows + n) * kSoftmaxSums;
    sum += of_rank[kSoftmaxSum] * expf(of_rank[kSoftmaxMax] - max);
    target_logit += of_rank[kSoftmaxTarget];
  }
  const bool counts = target != -1;
  if (threadIdx.x == 0) losses[n] = counts ? logf(sum) + (max - target_logit) : 0.0f;
  if (!gradient) return;
  const float factor = scale * (loss_scale ? *loss_scale : 1.0f);
  // A target that is no token has a logit that is not a number, which the gradient takes over.
  const float per_sum = counts ? factor / sum + (target_logit - target_logit) : 0.0f;
  for (int64_t v = threadIdx.x; v < c.width; v += kThreads) {
    float g = v < c.used && counts ? per_sum * expf(to_float(row[v]) - max) : 0.0f;
    if (counts && v < c.used && v == target - c.first_column) g = factor * (expf(target_logit - max) / sum - 1.0f);
    row[v] = from_float<T>(g);
  }
}

void softmax_part_sums(Context& ctx, const Tensor& logits, const Tensor& targets, const SoftmaxPart& part, Tensor& sums) {
  const int64_t rows = logits.dim(0);
  if (rows == 0) return;
  dispatch_float("classifier", logits.dtype(), [&](auto type) {
    using T = decltype(type);
    sums_kernel<T><<<static_cast<unsigned>(rows), kThreads, 0, raw_stream(ctx)>>>(columns_of(logits, part), elements<T>(logits),
                                                                                  elements<int32_t>(targets), elements<float>(sums));
    check_launch("sums of a classifier's columns");
  });
}

void softmax_part_gradient(Context& ctx, Tensor& logits, const Tensor& targets, const Tensor& sums_of_ranks, const SoftmaxPart& part,
                           bool gradient, Tensor& losses) {
  const int64_t rows = logits.dim(0);
  if (rows == 0) return;
  dispatch_float("classifier", logits.dtype(), [&](auto type) {
    using T = decltype(type);
    gradient_kernel<T><<<static_cast<unsigned>(rows), kThreads, 0, raw_stream(ctx)>>>(
        columns_of(logits, part), sums_of_ranks.dim(0), elements<T>(logits), elements<int32_t>(targets), elements<float>(sums_of_ranks),
        part.scale, part.loss_scale.defined() ? elements<float>(part.loss_scale) : nullptr, gradient, elements<float>(losses));
    check_launch("gradient of a classifier's columns");
  });
}

}  // namespace

void add_softmax_part_kernels(Backend& backend) {
  backend.add_kernel<SoftmaxPartSums>(&softmax_part_sums);
  backend.add_kernel<SoftmaxPartGradient>(&softmax_part_gradient);
  backend.add_kernel<ScaledSum>(&scaled_sum);
}

}  // namespace trireme::cuda
