// GELU and its slope on the device. 0.5 (1 + tanh(u)) = 1 / (1 + e^-2u): exact for large |x|, and one exponential.
#pragma once

namespace trireme::cuda {

constexpr float kTwoRootTwoOverPi = 1.5957691216f;  // 2 sqrt(2/pi)
constexpr float kGeluCubic = 0.044715f;

/// e^-2u with u = sqrt(2/pi) (x + 0.044715 x^3)
__device__ inline float exp_minus_2u(float x) { return __expf(-kTwoRootTwoOverPi * x * (1.0f + kGeluCubic * x * x)); }

__device__ inline float gelu_of(float x) { return x / (1.0f + exp_minus_2u(x)); }

/// dy/dx. Beyond 10 it is 0 or 1 to the last bit; the clamp keeps x^3 from overflowing, and NaN stays.
__device__ inline float gelu_slope_of(float x) {
  x = x > 10.0f ? 10.0f : x < -10.0f ? -10.0f : x;
  const float e = exp_minus_2u(x);
  const float s = 1.0f / (1.0f + e);  // y = x s, ds/dx = s (1 - s) 2 du/dx, and 1 - s = e s
  return s + x * s * (e * s) * kTwoRootTwoOverPi * (1.0f + 3.0f * kGeluCubic * x * x);
}

}  // namespace trireme::cuda
