// The kernels of gelu. 0.5 (1 + tanh(u)) = 1 / (1 + e^-2u): exact for large |x|, and one exponential.
#include "core/ops/gelu.h"

#include "core/backend/cpu/dispatch.h"
#include "core/backend/cpu/kernels.h"
#include "core/backend/cpu/parallel.h"
#include "core/backend/cpu/simd.h"

namespace trireme::cpu {
namespace {

constexpr float kTwoRootTwoOverPi = 1.5957691216f;  // 2 sqrt(2/pi)
constexpr float kCubic = 0.044715f;

/// e^-2u with u = sqrt(2/pi) (x + 0.044715 x^3)
inline float exp_minus_2u(float x) {
  return fast_exp(-kTwoRootTwoOverPi * x * (1.0f + kCubic * x * x));
}

template <class T>
void forward(const T* x, T* y, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const float v = static_cast<float>(x[i]);
    y[i] = T(v / (1.0f + exp_minus_2u(v)));
  }
}

template <class T>
void backward(const T* x, const T* dy, T* dx, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    // Beyond 10 the slope is 0 or 1 to the last bit; the clamp keeps v^3 from overflowing.
    const float value = static_cast<float>(x[i]);
    const float below = value > 10.0f ? 10.0f : value;
    const float v = below < -10.0f ? -10.0f : below;
    const float e = exp_minus_2u(v);
    const float s = 1.0f / (1.0f + e);  // y = x s, ds/dx = s (1 - s) 2 du/dx, and 1 - s = e s
    const float slope = s + v * s * (e * s) * kTwoRootTwoOverPi * (1.0f + 3.0f * kCubic * v * v);
    dx[i] = T(static_cast<float>(dy[i]) * slope);
  }
}

void gelu_forward(Context& ctx, const Tensor& x, Tensor& y) {
  dispatch_compute("gelu", x.dtype(), [&](auto type) {
    using T = decltype(type);
    for_elements(ctx, x.numel(),
                 [&](int64_t begin, int64_t end) { forward(x.data<T>(), y.data<T>(), begin, end); });
  });
}

void gelu_backward(Context& ctx, const Tensor& x, const Tensor& dy, Tensor& dx) {
  dispatch_compute("gelu backward", x.dtype(), [&](auto type) {
    using T = decltype(type);
    for_elements(ctx, x.numel(), [&](int64_t begin, int64_t end) {
      backward(x.data<T>(), dy.data<T>(), dx.data<T>(), begin, end);
    });
  });
}

}  // namespace

void add_gelu_kernels(Backend& backend) {
  backend.add_kernel<GeluForward>(&gelu_forward);
  backend.add_kernel<GeluBackward>(&gelu_backward);
}

}  // namespace trireme::cpu
