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
inline FloatLanes exp_minus_2u(FloatLanes x) {
  return exp_lanes(-kTwoRootTwoOverPi * x * (1.0f + kCubic * x * x));
}

inline FloatLanes value_of(FloatLanes x) {
  return x / (1.0f + exp_minus_2u(x));
}

/// dy/dx. Beyond 10 it is 0 or 1 to the last bit; the clamp keeps x^3 from overflowing.
inline FloatLanes slope_of(FloatLanes x) {
  x = clamp_lanes(x, -10.0f, 10.0f);
  const FloatLanes e = exp_minus_2u(x);
  const FloatLanes s = 1.0f / (1.0f + e);  // y = x s, ds/dx = s (1 - s) 2 du/dx, and 1 - s = e s
  return s + x * s * (e * s) * kTwoRootTwoOverPi * (1.0f + 3.0f * kCubic * x * x);
}

void gelu_forward(Context& ctx, const Tensor& x, Tensor& y) {
  const auto f = [](FloatLanes v) { return value_of(v); };
  dispatch_compute("gelu", x.dtype(), [&](auto type) {
    const auto* px = x.data<decltype(type)>();
    auto* py = y.data<decltype(type)>();
    for_elements(ctx, x.numel(), [&](int64_t begin, int64_t end) { transform_lanes(begin, end, f, py, px); });
  });
}

void gelu_backward(Context& ctx, const Tensor& x, const Tensor& dy, Tensor& dx) {
  const auto f = [](FloatLanes v, FloatLanes d) { return d * slope_of(v); };
  dispatch_compute("gelu backward", x.dtype(), [&](auto type) {
    const auto *px = x.data<decltype(type)>(), *pdy = dy.data<decltype(type)>();
    auto* pdx = dx.data<decltype(type)>();
    for_elements(ctx, x.numel(),
                 [&](int64_t begin, int64_t end) { transform_lanes(begin, end, f, pdx, px, pdy); });
  });
}

}  // namespace

void add_gelu_kernels(Backend& backend) {
  backend.add_kernel<GeluForward>(&gelu_forward);
  backend.add_kernel<GeluBackward>(&gelu_backward);
}

}  // namespace trireme::cpu
