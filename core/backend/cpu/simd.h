// Sixteen floats at a time, for kernels with exponentials: GCC's vectors, which become what -march offers
// (one AVX-512 register, two of AVX2, ...). Plain loops are left to `#pragma omp simd`.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace trireme::cpu {

inline constexpr int64_t kLanes = 16;
using FloatLanes [[gnu::vector_size(64)]] = float;
using IntLanes [[gnu::vector_size(64)]] = int32_t;
using WordLanes [[gnu::vector_size(64)]] = uint32_t;
using HalfLanes [[gnu::vector_size(32)]] = uint16_t;

inline FloatLanes load(const float* from) {
  FloatLanes v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}
inline FloatLanes load(const bf16* from) {
  HalfLanes halves;
  std::memcpy(&halves, from, sizeof(halves));
  return std::bit_cast<FloatLanes>(__builtin_convertvector(halves, WordLanes) << 16);
}

inline void store(FloatLanes v, float* to) {
  std::memcpy(to, &v, sizeof(v));
}
inline void store(FloatLanes v, bf16* to) {  // rounds as bf16's constructor does
  const WordLanes u = std::bit_cast<WordLanes>(v);
  const WordLanes rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const WordLanes words = v == v ? rounded : (u >> 16) | 0x40u;
  const HalfLanes halves = __builtin_convertvector(words, HalfLanes);
  std::memcpy(static_cast<void*>(to), &halves, sizeof(halves));
}

/// `count` < 16 elements, the other lanes 0.
template <class T>
FloatLanes load_part(const T* from, int64_t count) {
  alignas(64) T part[kLanes] = {};
  std::memcpy(static_cast<void*>(part), from, static_cast<size_t>(count) * sizeof(T));
  return load(part);
}
template <class T>
void store_part(FloatLanes v, T* to, int64_t count) {
  alignas(64) T part[kLanes];
  store(v, part);
  std::memcpy(static_cast<void*>(to), part, static_cast<size_t>(count) * sizeof(T));
}

/// y[i] = f(x[i], ...) for i in [begin, end). y may be one of the x.
template <class F, class Y, class... X>
void transform_lanes(int64_t begin, int64_t end, const F& f, Y* y, const X*... x) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) store(f(load(x + i)...), y + i);
  if (i < end) store_part(f(load_part(x + i, end - i)...), y + i, end - i);
}

inline FloatLanes clamp_lanes(FloatLanes x, float low, float high) {  // NaN stays
  const FloatLanes lows = FloatLanes{} + low, highs = FloatLanes{} + high;
  const FloatLanes below = x > highs ? highs : x;
  return below < lows ? lows : below;
}

inline float sum_lanes(FloatLanes v) {
  v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3);
  return (v[0] + v[1]) + (v[2] + v[3]);
}

/// The sum of f(x[i], ...) over i in [0, n), in four independent chains.
template <class F, class... X>
float sum_over(int64_t n, const F& f, const X*... x) {
  constexpr IntLanes kIndex{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  FloatLanes sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int64_t chain = 0; chain < 4; ++chain) sums[chain] += f(load(x + i + chain * kLanes)...);
  for (; i + kLanes <= n; i += kLanes) sums[0] += f(load(x + i)...);
  if (i < n) {
    const IntLanes inside = kIndex < static_cast<int32_t>(n - i);
    sums[1] += inside ? f(load_part(x + i, n - i)...) : FloatLanes{};
  }
  return sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/// e^x within 2 units in the last place; x is clamped to [-87, 88], so the result is finite and normal; NaN
/// stays. Range reduction by ln 2 in two parts, then a polynomial (coefficients: Cephes' expf).
inline FloatLanes exp_lanes(FloatLanes x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  x = clamp_lanes(x, -87.0f, 88.0f);
  const FloatLanes shifted = x * 1.44269504f + kRound;
  const FloatLanes n = shifted - kRound;
  const FloatLanes r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  FloatLanes p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const IntLanes exponent = (std::bit_cast<IntLanes>(shifted) - std::bit_cast<int32_t>(kRound) + 127) << 23;
  return p * std::bit_cast<FloatLanes>(exponent);
}

/// to = value, rounded to its type, in loops under `omp simd`: those that copy a struct are not vectorised.
inline void assign(float& to, float value) {
  to = value;
}
inline void assign(bf16& to, float value) {
  to.bits = bf16(value).bits;
}
inline void assign(f16& to, float value) {
  to.bits = f16(value).bits;
}

}  // namespace trireme::cpu
