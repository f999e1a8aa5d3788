// What every kernel here is written with: element types of the device, 16-byte packs of them, sums over warps and
// blocks, grids, and the step from a tensor's element type at run time to a template's.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>

#include <algorithm>
#include <string>

#include "core/backend/cuda/check.h"
#include "core/backend/cuda/cuda_backend.h"
#include "core/tensor.h"

namespace trireme::cuda {

// ---- element types

template <class T> struct DeviceType { using type = T; };
template <> struct DeviceType<bf16> { using type = __nv_bfloat16; };
template <> struct DeviceType<f16> { using type = __half; };

template <class T> __device__ inline float to_float(T x) { return static_cast<float>(x); }
template <class T> __device__ inline T from_float(float x) { return static_cast<T>(x); }
template <> __device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ inline __half from_float<__half>(float x) { return __float2half_rn(x); }

/// f(T{}) with T float, __nv_bfloat16 or __half.
template <class F>
void dispatch_float(const char* kernel, DType dtype, const F& f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::bf16: return f(__nv_bfloat16{});
    case DType::f16: return f(__half{});
    default: throw InternalError(std::string(kernel) + " has no GPU kernel for " + std::string(name_of(dtype)));
  }
}

/// The elements of a device tensor as T: float, __nv_bfloat16, __half, int32_t, ...
template <class T>
T* elements(const Tensor& t) {
  return t.defined() ? static_cast<T*>(t.raw()) : nullptr;
}

// ---- 16 bytes at a time

template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T v[kSize];
};
template <class T>
__device__ inline Pack<T> load_pack(const T* p) {
  Pack<T> out;
  *reinterpret_cast<uint4*>(&out) = *reinterpret_cast<const uint4*>(p);
  return out;
}
/// For what is read once: does not stay in the caches.
template <class T>
__device__ inline Pack<T> load_pack_once(const T* p) {
  Pack<T> out;
  *reinterpret_cast<uint4*>(&out) = __ldcs(reinterpret_cast<const uint4*>(p));
  return out;
}
template <class T>
__device__ inline void store_pack(T* p, const Pack<T>& pack) {
  *reinterpret_cast<uint4*>(p) = *reinterpret_cast<const uint4*>(&pack);
}
/// For what is not read again soon.
template <class T>
__device__ inline void store_pack_once(T* p, const Pack<T>& pack) {
  __stcs(reinterpret_cast<uint4*>(p), *reinterpret_cast<const uint4*>(&pack));
}
inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// ---- 16 bytes on their way to shared memory, so that loads go on while a kernel computes (CUDA Programming Guide,
// asynchronous data copies). Those of one step end together; the thread that began them, and no other, may then read them.

__device__ inline void load_ahead(uint4* to_shared, const void* from) { __pipeline_memcpy_async(to_shared, from, sizeof(uint4)); }
/// Ends a step, which may be empty.
__device__ inline void end_loads() { __pipeline_commit(); }
/// Waits for all steps but the last kUnderWay.
template <int kUnderWay>
__device__ inline void wait_for_loads() {
  __pipeline_wait_prior(kUnderWay);
  asm volatile("" ::: "memory");  // CUDA's own is not said to touch memory
}

// ---- sums

constexpr int kWarp = 32;

__device__ inline float warp_sum(float x) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}
/// The sum over the block, in every thread; always in the same order. `shared` has a float for each warp, and may be
/// used again after the call.
__device__ inline float block_sum(float x, float* shared) {
  x = warp_sum(x);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = warp_sum(lane < warps ? shared[lane] : 0.0f);
  __syncthreads();
  return x;
}

// ---- grids and limits

/// Of the current device.
inline int device_attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Blocks for `work` items of `per_block`, at most so many as stay busy: kernels loop over the rest by the grid's size.
inline int grid_size(int64_t work, int64_t per_block, int64_t most = 132 * 16) {
  return static_cast<int>(std::clamp<int64_t>(ceil_div(work, per_block), 1, most));
}

}  // namespace trireme::cuda
