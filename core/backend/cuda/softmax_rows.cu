// A block a row: one pass finds the largest logit and the sum of exponentials while it puts the row into shared memory,
// a second one writes the gradient from there, so that memory is read and written once. What of a long row does not fit
// is read again.
#include "core/backend/cuda/softmax_rows.h"

#include <cfloat>

#include "core/backend/cuda/device.cuh"

namespace trireme::cuda {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kUnroll = 4;            // loads in flight a thread
constexpr int kReservedBytes = 2048;  // of shared memory, for sums and the driver's own

/// e^x for x <= 0. 16-bit logits need no more than the fast one gives.
template <class T> __device__ inline float exp_of(float x) { return __expf(x); }
template <> __device__ inline float exp_of<float>(float x) { return expf(x); }

/// kSize neighbours: a pack of 16 bytes, or one element.
template <class T, int kSize>
struct alignas(sizeof(T) * kSize) Piece {
  T v[kSize];
};
template <class T, int kSize>
__device__ inline Piece<T, kSize> load_piece(const T* from) {
  Piece<T, kSize> out;
  if constexpr (kSize == 1) {
    out.v[0] = *from;
  } else {
    static_assert(sizeof(out) == sizeof(uint4));
    *reinterpret_cast<uint4*>(&out) = __ldcs(reinterpret_cast<const uint4*>(from));
  }
  return out;
}
template <class T, int kSize>
__device__ inline void store_piece(T* to, const Piece<T, kSize>& piece) {
  if constexpr (kSize == 1)
    *to = piece.v[0];
  else
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&piece);
}

/// The sum of e^(x - max), and max.
struct Normalizer {
  float max = -FLT_MAX, sum = 0.0f;
};

template <class T, int kSize>
__device__ inline void add_piece(Normalizer& n, const Piece<T, kSize>& piece, int left) {
  float x[kSize];
  float max = n.max;
#pragma unroll
  for (int k = 0; k < kSize; ++k) {
    x[k] = k < left ? to_float(piece.v[k]) : -INFINITY;
    max = fmaxf(max, x[k]);  // leaves NaN out, but the sum has it
  }
  float sum = n.sum * exp_of<T>(n.max - max);
#pragma unroll
  for (int k = 0; k < kSize; ++k) sum += exp_of<T>(x[k] - max);
  n = {max, sum};
}

/// Of the whole block, in every thread, always added in the same order.
template <class T>
__device__ inline Normalizer combine(Normalizer n) {
  __shared__ Normalizer of_warp[kMaxThreads / kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const auto over_warp = [](Normalizer own) {
    const float max = warp_max(own.max);
    return Normalizer{max, warp_sum(own.sum * exp_of<T>(own.max - max))};
  };
  n = over_warp(n);
  if (lane == 0) of_warp[warp] = n;
  __syncthreads();
  return over_warp(lane < warps ? of_warp[lane] : Normalizer());
}

struct Args {
  int width, vocab;
  const int32_t* targets;
  float* losses;
  bool gradient;
  float scale;
  const float* loss_scale;
  int cached;  // pieces that fit into shared memory
};

template <class T, int kSize>
__device__ inline void zero_row(T* row, int pieces) {
  Piece<T, kSize> zeros;
#pragma unroll
  for (int k = 0; k < kSize; ++k) zeros.v[k] = from_float<T>(0.0f);
  for (int i = threadIdx.x; i < pieces; i += blockDim.x) store_piece(row + i * kSize, zeros);
}

/// First pass over the pieces that hold columns of the vocabulary. A thread finds in the second pass the pieces that it
/// put into shared memory itself.
template <class T, int kSize>
__device__ inline Normalizer read_row(const T* row, int pieces, const Args& args, Piece<T, kSize>* cache) {
  const int threads = blockDim.x;
  Normalizer n;
  int i = threadIdx.x;
  for (; i + (kUnroll - 1) * threads < pieces; i += kUnroll * threads) {
    Piece<T, kSize> piece[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) piece[u] = load_piece<T, kSize>(row + (i + u * threads) * kSize);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int at = i + u * threads;
      if (at < args.cached) cache[at] = piece[u];
      add_piece(n, piece[u], args.vocab - at * kSize);
    }
  }
  for (; i < pieces; i += threads) {
    const Piece<T, kSize> piece = load_piece<T, kSize>(row + i * kSize);
    if (i < args.cached) cache[i] = piece;
    add_piece(n, piece, args.vocab - i * kSize);
  }
  return combine<T>(n);
}

/// `logits` and its rows are aligned to a piece.
template <class T, int kSize>
__global__ void __launch_bounds__(kMaxThreads) softmax_rows_kernel(T* logits, Args args) {
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
  const Normalizer n = read_row<T, kSize>(row, used, args, cache);
  // A target outside the vocabulary is an error that shows as NaN, in the loss and in the gradient.
  const bool is_token = target >= 0 && target < args.vocab;
  const auto loss_of = [&](float logit) { return logf(n.sum) + (n.max - logit); };
  if (threadIdx.x == 0 && !is_token) args.losses[blockIdx.x] = NAN;
  if (!args.gradient) {
    if (threadIdx.x == 0 && is_token) args.losses[blockIdx.x] = loss_of(to_float(row[target]));
    return;
  }
  const float factor = is_token ? args.scale * (args.loss_scale ? *args.loss_scale : 1.0f) : NAN;
  const float scale = factor / n.sum;
  for (int i = threadIdx.x; i < used; i += blockDim.x) {
    const Piece<T, kSize> in = i < args.cached ? cache[i] : load_piece<T, kSize>(row + i * kSize);
    const int left = args.vocab - i * kSize, target_at = is_token ? target - i * kSize : -1;
    Piece<T, kSize> out;
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      const float x = to_float(in.v[k]), e = exp_of<T>(x - n.max);
      float gradient = k < left ? scale * e : 0.0f;
      if (k == target_at) {
        gradient = factor * (e / n.sum - 1.0f);
        args.losses[blockIdx.x] = loss_of(x);
      }
      out.v[k] = from_float<T>(gradient);
    }
    store_piece(row + i * kSize, out);
  }
  zero_row<T, kSize>(row + used * kSize, pieces - used);
}

__global__ void __launch_bounds__(kMaxThreads) scaled_sum_kernel(int64_t n, const float* values, float scale, float* out) {
  __shared__ float shared[kMaxThreads / kWarp];
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
  int device = 0;
  SharedMemory m{};
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&m.block_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&m.multiprocessor_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
        "cudaDeviceGetAttribute");
  return m;
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
  const int64_t most_threads = two_blocks ? kMaxThreads / 2 : kMaxThreads;
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
  scaled_sum_kernel<<<1, kMaxThreads, 0, raw_stream(ctx)>>>(values.numel(), elements<float>(values), scale,
                                                            elements<float>(sum));
  check_launch("sum of losses");
}

}  // namespace trireme::cuda
