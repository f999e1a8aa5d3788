// Stochastic rounding to bf16: up or down, each with the probability that makes the result right on average (Gupta et al.,
// "Deep Learning with Limited Numerical Precision", ICML 2015). An element's random number depends on (seed, applied
// steps, parameter, element of the global array), so that every layout rounds alike. Host and device share this code.
#pragma once

#include <array>
#include <cstdint>

#include "core/rng.h"

namespace trireme {

/// That weights are kept in bf16 alone, without f32 master copies.
struct StochasticRounding {
  uint64_t seed = 0;  // the run's
};

/// Where the elements of a run of a shard lie in their parameter's global array. A table of them is i64 [R, kSize].
struct RunPlace {
  int64_t key;     // of the parameter's random stream, all 64 bits
  int64_t origin;  // the shard's element, maybe before its begin, that is element `global` of the global array
  int64_t length;  // from `origin` on, so many are neighbours in the global array too,
  int64_t global;
  int64_t stride;  // and the next so many lie this much further
  static constexpr int64_t kSize = 5;

  /// Element i of the shard in the global array.
  constexpr int64_t element(int64_t i) const {
    const int64_t j = i - origin;
    if (j < length) return global + j;  // no division where a parameter is whole, or split by rows
    return global + j / length * stride + j % length;
  }
  constexpr RandomStream stream(int64_t applied_steps) const {
    return {static_cast<uint64_t>(key), static_cast<uint64_t>(applied_steps)};
  }
};
static_assert(sizeof(RunPlace) == RunPlace::kSize * sizeof(int64_t));

/// Elements that take their random numbers from one block of a stream: as many bits each as bf16 leaves out of an f32.
inline constexpr int64_t kRoundedOfBlock = 8;

/// 16 bits for `element`, from block element / kRoundedOfBlock.
constexpr uint32_t rounding_bits(const std::array<uint32_t, 4>& block, int64_t element) {
  const auto low = static_cast<uint32_t>(element);
  const uint32_t word = (low & 4) ? ((low & 2) ? block[3] : block[2]) : ((low & 2) ? block[1] : block[0]);
  return (low & 1) ? word >> 16 : word & 0xffffu;
}

/// The bits of the bf16 below or above the f32 whose bits are `value`: with `random` uniform in [0, 2^16) it is the upper
/// one with a probability of exactly the share of the spacing that lies below the value. What bf16 has stays as it is.
constexpr uint16_t round_at_random(uint32_t value, uint32_t random) {
  const uint32_t rounded = (value + random) >> 16, quiet_nan = (value >> 16) | 0x40u;
  return static_cast<uint16_t>((value & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

}  // namespace trireme
