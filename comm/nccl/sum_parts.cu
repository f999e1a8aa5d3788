// Sums of several ranks' parts.
#include "comm/nccl/sum_parts.h"

#include "core/backend/cuda/device.cuh"

namespace trireme::comm {
namespace {

using cuda::from_float;
using cuda::Pack;
using cuda::to_float;

constexpr int kThreads = 512;
/// Packs that a thread has under way, and blocks: two of a multiprocessor. From a part of them it takes
/// longer beside products, since those wait for copies that wait for sums.
constexpr int kUnroll = 2, kBlocks = 264;

template <class T>
struct Sum {
  const T *own, *received;
  size_t stride, count;  // elements
  int rank, num_ranks;
  float scale;
  T *out, *copy;

  __device__ const T* part(int r) const {
    return r == rank ? own : received + (r < rank ? r : r - 1) * stride;
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) sum_parts_kernel(const Sum<T> s) {
  using P = Pack<T>;
  constexpr size_t kBlock = size_t{kThreads} * kUnroll * P::kSize;
  for (size_t begin = blockIdx.x * kBlock + threadIdx.x * P::kSize; begin < s.count;
       begin += gridDim.x * kBlock) {
    float sums[kUnroll][P::kSize];
    const auto at = [&](int u) { return begin + size_t{kThreads} * u * P::kSize; };
    for (int r = 0; r < s.num_ranks; ++r) {
      const T* const part = s.part(r);
      P x[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if (at(u) < s.count) x[u] = cuda::load_pack_once(part + at(u));
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
#pragma unroll
        for (int k = 0; k < P::kSize; ++k)
          sums[u][k] = r == 0 ? to_float(x[u].v[k]) : sums[u][k] + to_float(x[u].v[k]);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (at(u) >= s.count) continue;
      P result;
#pragma unroll
      for (int k = 0; k < P::kSize; ++k) result.v[k] = from_float<T>(s.scale * sums[u][k]);
      cuda::store_pack_once(s.out + at(u), result);
      if (s.copy) cuda::store_pack_once(s.copy + at(u), result);
    }
  }
}

/// For what is not made of whole, aligned packs.
template <class T>
__global__ void sum_elements_kernel(const Sum<T> s) {
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < s.count;
       i += size_t{gridDim.x} * blockDim.x) {
    float sum = to_float(s.part(0)[i]);
    for (int r = 1; r < s.num_ranks; ++r) sum += to_float(s.part(r)[i]);
    const T result = from_float<T>(s.scale * sum);
    s.out[i] = result;
    if (s.copy) s.copy[i] = result;
  }
}

}  // namespace

void load_sum_parts() {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    cuda::dispatch_float("sum_parts", dtype, [&]<class T>(T) {
      cudaFuncAttributes attributes;
      cuda::check(cudaFuncGetAttributes(&attributes, &sum_parts_kernel<T>), "cudaFuncGetAttributes");
      cuda::check(cudaFuncGetAttributes(&attributes, &sum_elements_kernel<T>), "cudaFuncGetAttributes");
    });
}

void sum_parts(const Parts& parts, float scale, void* out, void* copy, cudaStream_t stream) {
  if (parts.count == 0) return;
  cuda::dispatch_float("sum_parts", parts.dtype, [&]<class T>(T) {
    constexpr int64_t kPack = Pack<T>::kSize;
    const Sum<T> sum{.own = static_cast<const T*>(parts.own),
                     .received = static_cast<const T*>(parts.received),
                     .stride = parts.stride / sizeof(T),
                     .count = parts.count,
                     .rank = parts.rank,
                     .num_ranks = parts.num_ranks,
                     .scale = scale,
                     .out = static_cast<T*>(out),
                     .copy = static_cast<T*>(copy)};
    const auto count = static_cast<int64_t>(parts.count);
    const bool packed = cuda::is_aligned(parts.own) && cuda::is_aligned(parts.received) &&
                        parts.stride % 16 == 0 && cuda::is_aligned(out) && cuda::is_aligned(copy) &&
                        count % kPack == 0;
    if (packed)
      sum_parts_kernel<T>
          <<<cuda::grid_size(count, kThreads * kUnroll * kPack, kBlocks), kThreads, 0, stream>>>(sum);
    else
      sum_elements_kernel<T><<<cuda::grid_size(count, kThreads), kThreads, 0, stream>>>(sum);
  });
  cuda::check_launch("sum_parts");
}

}  // namespace trireme::comm
