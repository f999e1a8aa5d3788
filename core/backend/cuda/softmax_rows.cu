// A block a row: one pass finds the largest logit and the sum of exponentials while it puts the row into shared memory,
// a second one writes the gradient from there, so that memory is read and written once. What of a long row does not fit
// is read again.
#include "core/backend/cuda/softmax_rows.h"

#include "core/backend/cuda/softmax_rows.cuh"

namespace trireme::cuda {
namespace {

constexpr int kReservedBytes = 2048;  // of shared memory, for sums and the driver's own

struct Args {
  int width, vocab;
  const int32_t* targets;
  float* losses;
  bool gradient;
  float scale;
  const float* loss_scale;
  int cached;  // pieces that fit into shared memory
};

/// `logits` and its rows are aligned to a piece.
template <class T, int kSize>
__global__ void __launch_bounds__(kMaxRowThreads) softmax_rows_kernel(T* logits, Args args) {
  extern __shared__ uint4 shared_bytes[];
  auto* cache = reinterpret_cast<Piece<T, kSize>*>(shared_bytes);
  T* row = logits + int64_t{blockIdx.x} * args.width;
  const int pieces = args.width / kSize, used = (args.vocab + kSize - 1) / kSize;
  const int target = args.targets[blockIdx.x];
  if (target == -1) {
    if (args.gradient) zero_row<T, kSize>(row, pieces);
    if (threadIdx.x == 0) args.losses[blockIdx.x] = 0.0f;
    return;
  }
  const Normalizer n = read_row<T, kSize>(row, used, args.vocab, cache, args.cached);
  // A target outside the vocabulary is an error that shows as NaN, in the loss and in the gradient.
  const bool is_token = target >= 0 && target < args.vocab;
  const auto loss_of = [&](float logit) { return logf(n.sum) + (n.max - logit); };
  if (threadIdx.x == 0 && !is_token) args.losses[blockIdx.x] = NAN;
  if (!args.gradient) {
    if (threadIdx.x == 0 && is_token) args.losses[blockIdx.x] = loss_of(to_float(row[target]));
    return;
  }
  const float factor = is_token ? args.scale * (args.loss_scale ? *args.loss_scale : 1.0f) : NAN;
  write_gradient<T, kSize>(row, pieces, args.vocab, is_token ? target : -1, n, factor, cache, args.cached,
                           [&](float logit) { args.losses[blockIdx.x] = loss_of(logit); });
}

__global__ void __launch_bounds__(kMaxRowThreads) scaled_sum_kernel(int64_t n, const float* values, float scale, float* out) {
  __shared__ float shared[kMaxRowThreads / kWarp];
  float sum = 0.0f;
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += values[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *out = scale * sum;
}

struct SharedMemory {
  int block_bytes, multiprocessor_bytes;
};
SharedMemory shared_memory() {
  return {device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin), device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor)};
}

template <class T, int kSize>
void launch_softmax_rows(Context& ctx, const SoftmaxRows& s) {
  constexpr int64_t kPieceBytes = sizeof(Piece<T, kSize>);
  Args args{static_cast<int>(s.logits.dim(1)), static_cast<int>(s.vocab), s.targets, s.losses, s.gradient, s.scale,
            s.loss_scale, 0};
  // Two blocks on a multiprocessor overlap loads with arithmetic; a longer row has one to itself.
  const SharedMemory memory = shared_memory();
  const int64_t pieces = ceil_div(s.vocab, kSize), half = memory.multiprocessor_bytes / 2 - kReservedBytes;
  const bool two_blocks = pieces * kPieceBytes <= half;
  const int64_t most_bytes = two_blocks ? half : memory.block_bytes - kReservedBytes;
  args.cached = s.gradient ? static_cast<int>(std::min(pieces, most_bytes / kPieceBytes)) : 0;
  const auto cache_bytes = static_cast<int>(args.cached * kPieceBytes);
  const int64_t wanted_threads = ceil_div(pieces, kUnroll * kWarp) * kWarp;
  const int64_t most_threads = two_blocks ? kMaxRowThreads / 2 : kMaxRowThreads;
  const auto threads = static_cast<unsigned>(std::clamp<int64_t>(wanted_threads, 64, most_threads));
  const auto kernel = softmax_rows_kernel<T, kSize>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cache_bytes), "cudaFuncSetAttribute");
  kernel<<<static_cast<unsigned>(s.logits.dim(0)), threads, cache_bytes, raw_stream(ctx)>>>(elements<T>(s.logits), args);
  check_launch("softmax of rows");
}

}  // namespace

void softmax_rows(Context& ctx, const SoftmaxRows& s) {
  if (s.logits.dim(0) == 0) return;
  TRIREME_ASSERT(s.logits.dim(1) < (int64_t{1} << 30), "softmax of rows: too long");
  if (softmax_long_rows(ctx, s)) return;
  dispatch_float("softmax of rows", s.logits.dtype(), [&](auto type) {
    using T = decltype(type);
    if (is_aligned(s.logits.raw()) && s.logits.dim(1) % Pack<T>::kSize == 0)
      launch_softmax_rows<T, Pack<T>::kSize>(ctx, s);
    else
      launch_softmax_rows<T, 1>(ctx, s);
  });
}

void scaled_sum(Context& ctx, const Tensor& values, float scale, Tensor& sum) {
  scaled_sum_kernel<<<1, kMaxRowThreads, 0, raw_stream(ctx)>>>(values.numel(), elements<float>(values), scale,
                                                            elements<float>(sum));
  check_launch("sum of losses");
}

}  // namespace trireme::cuda
