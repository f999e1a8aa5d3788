// map(): a kernel that goes over memory once, for operations element by element.
//   struct F { __device__ T one(int64_t i) const; __device__ Pack<T> pack(int64_t i) const; };   // y[i], y[i...]
#pragma once

#include "core/backend/cuda/device.cuh"

namespace trireme::cuda {

constexpr int kMapThreads = 256;

/// Whole packs first, the rest one by one.
template <class Out, class F>
__global__ void map_kernel(int64_t n, Out* y, F f) {
  using P = Pack<Out>;
  const int64_t packs = n / P::kSize, stride = int64_t{gridDim.x} * blockDim.x;
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (int64_t i = thread; i < packs; i += stride) store_pack(y + i * P::kSize, f.pack(i * P::kSize));
  for (int64_t i = packs * P::kSize + thread; i < n; i += stride) y[i] = f.one(i);
}
template <class Out, class F>
__global__ void map_unaligned_kernel(int64_t n, Out* y, F f) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += stride) y[i] = f.one(i);
}
/// y[i] = f.one(i) for i in [0, n). `aligned`: what f.pack() reads is aligned to 16 bytes at i = 0.
template <class Out, class F>
void map(cudaStream_t stream, const char* name, int64_t n, Out* y, bool aligned, const F& f) {
  if (n == 0) return;
  if (aligned && is_aligned(y))
    map_kernel<<<grid_size(n, int64_t{kMapThreads} * Pack<Out>::kSize), kMapThreads, 0, stream>>>(n, y, f);
  else
    map_unaligned_kernel<<<grid_size(n, kMapThreads), kMapThreads, 0, stream>>>(n, y, f);
  check_launch(name);
}
template <class Out, class F>
void map(const Context& ctx, const char* name, int64_t n, Out* y, bool aligned, const F& f) {
  map(raw_stream(ctx), name, n, y, aligned, f);
}

}  // namespace trireme::cuda
