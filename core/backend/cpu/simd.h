// Scalar functions without branches or calls, which loops under `#pragma omp simd` vectorise at any -march.
#pragma once

#include <bit>
#include <cstdint>

namespace trireme::cpu {

/// e^x within 2 units in the last place; x is clamped to [-87, 88], so the result is always finite and
/// normal. Range reduction by ln 2 in two parts, then a polynomial of degree 6 (coefficients: Cephes, expf).
inline float fast_exp(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float e = p * (r * r) + r + 1.0f;
  const int32_t power = (std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound) + 127) << 23;
  return e * std::bit_cast<float>(power);
}

}  // namespace trireme::cpu
