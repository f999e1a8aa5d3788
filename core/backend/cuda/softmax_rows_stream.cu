// Long rows of 16-bit logits, with their gradient: a block a multiprocessor stays for many rows. It holds the present row
// in registers while the next two are on their way into two buffers of shared memory, so that loads never pause for the
// arithmetic. A thread finds in the buffers what it asked for itself.
#include <cfloat>

#include "core/backend/cuda/device.cuh"
#include "core/backend/cuda/softmax_rows.h"

namespace trireme::cuda {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kPacks = 7;                   // of a row, in a thread's registers
constexpr int64_t kMinRowBytes = 48 << 10;  // several blocks on a multiprocessor do as well with shorter ones
constexpr int kReservedBytes = 1024;        // of shared memory, for sums

/// e^x for x <= 0; 16-bit logits need no more than this.
__device__ inline float fast_exp(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x * 1.4426950408889634f));
  return out;
}

struct Normalizer {
  float max, sum;  // sum of e^(x - max)
};
__device__ inline Normalizer over_warp(Normalizer own) {
  const float max = warp_max(own.max);
  return {max, warp_sum(own.sum * fast_exp(own.max - max))};
}

struct Args {
  int rows, width, vocab;
  const int32_t* targets;
  float* losses;
  float scale;
  const float* loss_scale;
};

/// Begins to load this thread's packs of a row: one step of load_ahead's, also where the row is ignored or there is none.
template <class T>
__device__ inline void begin_load(const T* logits, const Args& args, int row, int used, uint4* buffer) {
  if (row < args.rows && args.targets[row] != -1) {
#pragma unroll
    for (int u = 0; u < kPacks; ++u) {
      const int at = threadIdx.x + u * blockDim.x;
      if (at < used) load_ahead(buffer + at, logits + int64_t{row} * args.width + at * Pack<T>::kSize);
    }
  }
  end_loads();
}

/// Keeps the pack as it is in registers: its elements apart, kept for the next use, would not fit.
template <class T>
__device__ inline void keep_packed(Pack<T>& pack) {
  uint4 word = *reinterpret_cast<const uint4*>(&pack);
  asm volatile("" : "+r"(word.x), "+r"(word.y), "+r"(word.z), "+r"(word.w));
  *reinterpret_cast<uint4*>(&pack) = word;
}

/// This thread's packs; what is not of the vocabulary is -infinity.
template <class T>
__device__ inline void read_packs(Pack<T> (&pack)[kPacks], const uint4* buffer, int used, int vocab) {
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    const int at = threadIdx.x + u * blockDim.x, left = vocab - at * Pack<T>::kSize;
    if (at < used) *reinterpret_cast<uint4*>(&pack[u]) = buffer[at];
    if (left < Pack<T>::kSize) {
#pragma unroll
      for (int k = 0; k < Pack<T>::kSize; ++k)
        if (k >= left) pack[u].v[k] = from_float<T>(-INFINITY);
    }
    keep_packed(pack[u]);
  }
}

/// Of what the warp holds, relative to the warp's own largest.
template <class T>
__device__ inline Normalizer normalizer_of_warp(Pack<T> (&pack)[kPacks]) {
  float max = -FLT_MAX, sum = 0.0f;
#pragma unroll
  for (int u = 0; u < kPacks; ++u)
#pragma unroll
    for (int k = 0; k < Pack<T>::kSize; ++k) max = fmaxf(max, to_float(pack[u].v[k]));  // without NaN; the sum has it
  max = warp_max(max);
#pragma unroll
  for (int u = 0; u < kPacks; ++u) keep_packed(pack[u]);
#pragma unroll
  for (int u = 0; u < kPacks; ++u)
#pragma unroll
    for (int k = 0; k < Pack<T>::kSize; ++k) sum += fast_exp(to_float(pack[u].v[k]) - max);
#pragma unroll
  for (int u = 0; u < kPacks; ++u) keep_packed(pack[u]);
  return {max, warp_sum(sum)};
}

template <class T>
__device__ inline void zero_packs(T* row, int begin, int end) {
  for (int i = begin + threadIdx.x; i < end; i += blockDim.x)
    __stcs(reinterpret_cast<uint4*>(row) + i, make_uint4(0, 0, 0, 0));
}

/// `target` is -2 where it is outside the vocabulary.
template <class T>
__device__ inline void write_gradient(const Pack<T> (&pack)[kPacks], T* row, int used, int target, Normalizer n,
                                      const Args& args, float* loss) {
  constexpr int kSize = Pack<T>::kSize;
  const float factor = target >= 0 ? args.scale * (args.loss_scale ? *args.loss_scale : 1.0f) : NAN;
  const float scale = factor / n.sum;
  if (target < 0 && threadIdx.x == 0) *loss = NAN;
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    const int at = threadIdx.x + u * blockDim.x;
    if (at >= used) continue;
    const int left = args.vocab - at * kSize, target_at = target - at * kSize;
    Pack<T> out;
#pragma unroll
    for (int k = 0; k < kSize; ++k) out.v[k] = from_float<T>(scale * fast_exp(to_float(pack[u].v[k]) - n.max));
    if (left < kSize || (target_at >= 0 && target_at < kSize)) {  // few
#pragma unroll
      for (int k = 0; k < kSize; ++k) {
        if (k >= left) out.v[k] = from_float<T>(0.0f);
        if (k != target_at) continue;
        const float x = to_float(pack[u].v[k]);
        out.v[k] = from_float<T>(factor * (fast_exp(x - n.max) / n.sum - 1.0f));
        *loss = logf(n.sum) + (n.max - x);
      }
    }
    store_pack_once(row + at * kSize, out);
  }
}

/// `logits` and its rows are aligned to 16 bytes; the threads hold kPacks packs each, which are the whole vocabulary.
template <class T>
__global__ void __launch_bounds__(kMaxThreads, 1) softmax_rows_stream_kernel(T* logits, Args args) {
  extern __shared__ uint4 buffers[];  // [2][used]
  __shared__ Normalizer of_warp[2][kMaxThreads / kWarp];
  constexpr int kSize = Pack<T>::kSize;
  const int packs = args.width / kSize, used = (args.vocab + kSize - 1) / kSize;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp, stride = gridDim.x;
  for (int b = 0; b < 2; ++b) begin_load(logits, args, blockIdx.x + b * stride, used, buffers + b * used);
  int b = 0, turn = 0;
  for (int row = blockIdx.x; row < args.rows; row += stride, b ^= 1) {
    const int target = args.targets[row];
    T* to = logits + int64_t{row} * args.width;
    wait_for_loads<1>();  // but the next row's
    if (target == -1) {
      begin_load(logits, args, row + 2 * stride, used, buffers + b * used);
      zero_packs(to, 0, packs);
      if (threadIdx.x == 0) args.losses[row] = 0.0f;
      continue;
    }
    Pack<T> pack[kPacks];
    read_packs(pack, buffers + b * used, used, args.vocab);
    begin_load(logits, args, row + 2 * stride, used, buffers + b * used);
    const Normalizer own = normalizer_of_warp(pack);
    if (lane == 0) of_warp[turn][warp] = own;
    __syncthreads();
    const Normalizer n = over_warp(lane < warps ? of_warp[turn][lane] : Normalizer{-FLT_MAX, 0.0f});
    turn ^= 1;  // this one's comes again after the barrier of the next row that is not ignored
    const bool is_token = target >= 0 && target < args.vocab;
    write_gradient(pack, to, used, is_token ? target : -2, n, args, args.losses + row);
    zero_packs(to, used, packs);
  }
  wait_for_loads<0>();
}

template <class T>
bool launch_stream(Context& ctx, const SoftmaxRows& s) {
  const int64_t used = ceil_div(s.vocab, Pack<T>::kSize), buffers_bytes = 2 * used * 16;
  const bool fits = used * 16 >= kMinRowBytes && used <= kPacks * kMaxThreads &&
                    buffers_bytes + kReservedBytes <= device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (!fits || !is_aligned(s.logits.raw()) || s.logits.dim(1) % Pack<T>::kSize != 0) return false;
  const auto kernel = softmax_rows_stream_kernel<T>;
  const int64_t blocks = std::min<int64_t>(s.logits.dim(0), device_attribute(cudaDevAttrMultiProcessorCount));
  // Rows are numbered by int, to two strides past the last.
  if (s.logits.dim(0) > (int64_t{1} << 30)) return false;
  const Args args{static_cast<int>(s.logits.dim(0)), static_cast<int>(s.logits.dim(1)), static_cast<int>(s.vocab), s.targets,
                  s.losses, s.scale, s.loss_scale};
  const auto threads = static_cast<unsigned>(ceil_div(used, kPacks * kWarp) * kWarp);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(buffers_bytes)),
        "cudaFuncSetAttribute");
  kernel<<<static_cast<unsigned>(blocks), threads, static_cast<size_t>(buffers_bytes), raw_stream(ctx)>>>(
      elements<T>(s.logits), args);
  check_launch("softmax of long rows");
  return true;
}

}  // namespace

bool softmax_long_rows(Context& ctx, const SoftmaxRows& s) {
  if (!s.gradient || s.logits.dim(0) == 0) return false;
  if (s.logits.dtype() == DType::bf16) return launch_stream<__nv_bfloat16>(ctx, s);
  if (s.logits.dtype() == DType::f16) return launch_stream<__half>(ctx, s);
  return false;
}

}  // namespace trireme::cuda
