// Vectors of floats, as wide as the machine that is compiled for: GCC's and Clang's generic vector types, so
// the same code becomes AVX-512, AVX2, SSE or NEON. Only what the attention kernels need.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "core/dtype.h"

namespace trireme::cpu {

inline constexpr int kLanes = __BIGGEST_ALIGNMENT__ / sizeof(float);

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t IntVec __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef uint32_t UintVec __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint16_t HalfVec __attribute__((vector_size(kLanes * sizeof(uint16_t))));

template <class V, class T>
[[gnu::always_inline]] inline V load_as(const T* from) {
  static_assert(sizeof(V) == kLanes * sizeof(T));
  V v;
  std::memcpy(&v, from, sizeof(V));
  return v;
}

[[gnu::always_inline]] inline Vec load(const float* from) {
  return load_as<Vec>(from);
}
[[gnu::always_inline]] inline Vec load(const bf16* from) {
  return reinterpret_cast<Vec>(__builtin_convertvector(load_as<HalfVec>(from), UintVec) << 16);
}

[[gnu::always_inline]] inline void store(float* to, Vec v) {
  std::memcpy(to, &v, sizeof(v));
}
/// Rounds to nearest even, as bf16's constructor does.
[[gnu::always_inline]] inline void store(bf16* to, Vec v) {
  const UintVec u = reinterpret_cast<UintVec>(v);
  const UintVec rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const UintVec quiet_nan = (u >> 16) | 0x40u;
  const HalfVec bits =
      __builtin_convertvector((u & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded, HalfVec);
  std::memcpy(static_cast<void*>(to), &bits, sizeof(bits));
}

[[gnu::always_inline]] inline Vec broadcast(float value) {
  return Vec{} + value;
}

/// b where one of them is not a number.
[[gnu::always_inline]] inline Vec max(Vec a, Vec b) {
  return a > b ? a : b;
}

/// 0, 1, 2, ...
inline IntVec lane_indices() {
  IntVec v{};
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

/// 2^x for x <= 127, within 2e-7 of the value; 0 for x <= -127. NaN stays NaN.
[[gnu::always_inline]] inline Vec exp2(Vec x) {
  const Vec lowest = broadcast(-127.0f);
  x = max(lowest, x);
  const Vec shifted = x + 0x1.8p23f;  // the nearest integer of x, in the lowest bits of the mantissa
  const Vec r = x - (shifted - 0x1.8p23f);
  // A minimax polynomial of (2^r - 1) / r on [-1/2, 1/2].
  Vec p = broadcast(1.326469489e-3f);
  p = p * r + 9.671514832e-3f;
  p = p * r + 5.550733851e-2f;
  p = p * r + 2.402224204e-1f;
  p = p * r + 6.931469775e-1f;
  p = p * r + 1.0f;
  return reinterpret_cast<Vec>(reinterpret_cast<IntVec>(p) + (reinterpret_cast<IntVec>(shifted) << 23));
}

namespace detail {

// Lane i plus lane i + kHalf, for the first kHalf lanes.
template <int kHalf, int... kLane>
[[gnu::always_inline]] inline float sum_halves(Vec v, std::integer_sequence<int, kLane...> lanes) {
  v += __builtin_shufflevector(v, v, ((kLane + kHalf) % kLanes)...);
  if constexpr (kHalf > 1) return sum_halves<kHalf / 2>(v, lanes);
  return v[0];
}

// One step of a transposition: exchanges the off-diagonal kStep x kStep blocks of rows i and i + kStep.
template <int kStep, bool kUpper, int... kLane>
[[gnu::always_inline]] inline Vec exchange(Vec a, Vec b, std::integer_sequence<int, kLane...>) {
  if constexpr (kUpper)
    return __builtin_shufflevector(a, b, ((kLane & kStep) ? kLanes + kLane - kStep : kLane)...);
  return __builtin_shufflevector(a, b, ((kLane & kStep) ? kLanes + kLane : kLane + kStep)...);
}

template <int kStep>
[[gnu::always_inline]] inline void transpose_step(Vec (&rows)[kLanes]) {
  constexpr auto kAllLanes = std::make_integer_sequence<int, kLanes>{};
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & kStep) continue;
    const Vec a = rows[i], b = rows[i + kStep];
    rows[i] = exchange<kStep, true>(a, b, kAllLanes);
    rows[i + kStep] = exchange<kStep, false>(a, b, kAllLanes);
  }
  if constexpr (kStep * 2 < kLanes) transpose_step<kStep * 2>(rows);
}

}  // namespace detail

[[gnu::always_inline]] inline float sum(Vec v) {
  return detail::sum_halves<kLanes / 2>(v, std::make_integer_sequence<int, kLanes>{});
}

/// to = factor * from^T, for one block of kLanes x kLanes.
inline void transpose_block(const float* from, int64_t from_stride, float factor, float* to,
                            int64_t to_stride) {
  Vec rows[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) rows[i] = load(from + i * from_stride) * factor;
  detail::transpose_step<1>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) store(to + i * to_stride, rows[i]);
}

}  // namespace trireme::cpu
