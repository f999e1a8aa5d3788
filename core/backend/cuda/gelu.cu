// The kernels of gelu.
#include "core/ops/gelu.h"

#include "core/backend/cuda/gelu.cuh"
#include "core/backend/cuda/kernels.h"
#include "core/backend/cuda/map.cuh"

namespace trireme::cuda {
namespace {

template <class T>
struct Forward {
  const T* x;
  __device__ T one(int64_t i) const { return from_float<T>(gelu_of(to_float(x[i]))); }
  __device__ Pack<T> pack(int64_t i) const {
    Pack<T> out = load_pack(x + i);
#pragma unroll
    for (int k = 0; k < Pack<T>::kSize; ++k) out.v[k] = from_float<T>(gelu_of(to_float(out.v[k])));
    return out;
  }
};

template <class T>
struct Backward {
  const T *x, *dy;
  __device__ T one(int64_t i) const { return from_float<T>(to_float(dy[i]) * gelu_slope_of(to_float(x[i]))); }
  __device__ Pack<T> pack(int64_t i) const {
    const Pack<T> in = load_pack(x + i);
    Pack<T> out = load_pack(dy + i);
#pragma unroll
    for (int k = 0; k < Pack<T>::kSize; ++k) out.v[k] = from_float<T>(to_float(out.v[k]) * gelu_slope_of(to_float(in.v[k])));
    return out;
  }
};

void gelu_forward(Context& ctx, const Tensor& x, Tensor& y) {
  dispatch_float("gelu", x.dtype(), [&](auto type) {
    using T = decltype(type);
    map(ctx, "gelu", x.numel(), elements<T>(y), is_aligned(x.raw()), Forward<T>{elements<T>(x)});
  });
}

void gelu_backward(Context& ctx, const Tensor& x, const Tensor& dy, Tensor& dx) {
  dispatch_float("gelu backward", x.dtype(), [&](auto type) {
    using T = decltype(type);
    map(ctx, "gelu backward", x.numel(), elements<T>(dx), is_aligned(x.raw()) && is_aligned(dy.raw()),
        Backward<T>{elements<T>(x), elements<T>(dy)});
  });
}

}  // namespace

void add_gelu_kernels(Backend& backend) {
  backend.add_kernel<GeluForward>(&gelu_forward);
  backend.add_kernel<GeluBackward>(&gelu_backward);
}

}  // namespace trireme::cuda
