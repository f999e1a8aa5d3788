// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011). A number is a pure function of (key, counter), never of rank or call order, so initial weights,
// dropout and data order are the same on every layout.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace trireme {

/// One of Philox's ten rounds, of the counter's words c with the key's words k.
constexpr void philox_round(uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3, uint32_t k0, uint32_t k1) {
  const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
  const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
  c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
  c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
  c1 = static_cast<uint32_t>(p1);
  c3 = static_cast<uint32_t>(p0);
}
inline constexpr uint32_t kPhiloxKeyStep0 = 0x9E3779B9u, kPhiloxKeyStep1 = 0xBB67AE85u;  // added after each round

/// Four 32-bit numbers for one counter.
constexpr std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter_low), c1 = static_cast<uint32_t>(counter_low >> 32);
  uint32_t c2 = static_cast<uint32_t>(counter_high), c3 = static_cast<uint32_t>(counter_high >> 32);
  for (int round = 0; round < 10; ++round) {
    philox_round(c0, c1, c2, c3, k0, k1);
    k0 += kPhiloxKeyStep0;
    k1 += kPhiloxKeyStep1;
  }
  return {c0, c1, c2, c3};
}

inline constexpr size_t kPhiloxLanes = 16;
using PhiloxLanes = std::array<std::array<uint32_t, kPhiloxLanes>, 4>;
/// out[w][i] = word w of philox(key, counter_low + i, counter_high): many at a time, in loops that vectorise.
inline void philox_lanes(uint64_t key, uint64_t counter_low, uint64_t counter_high, PhiloxLanes& out) {
  auto& [c0, c1, c2, c3] = out;
  for (size_t i = 0; i < kPhiloxLanes; ++i) {
    c0[i] = static_cast<uint32_t>(counter_low + i), c1[i] = static_cast<uint32_t>((counter_low + i) >> 32);
    c2[i] = static_cast<uint32_t>(counter_high), c3[i] = static_cast<uint32_t>(counter_high >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    for (size_t i = 0; i < kPhiloxLanes; ++i) philox_round(c0[i], c1[i], c2[i], c3[i], k0, k1);
    k0 += kPhiloxKeyStep0;
    k1 += kPhiloxKeyStep1;
  }
}

/// A 64-bit mix of a name: the same in every process and build (FNV-1a, then a finaliser).
constexpr uint64_t hash_name(std::string_view name) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (char c : name) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  h ^= h >> 33;
  h *= 0xff51afd7ed558ccdull;
  return h ^ (h >> 33);
}

/// One stream of random numbers, keyed by the run's seed and what the numbers are for.
struct RandomStream {
  uint64_t key = 0;
  uint64_t counter_high = 0;

  constexpr std::array<uint32_t, 4> block(uint64_t index) const { return philox(key, index, counter_high); }
};

constexpr RandomStream make_stream(uint64_t seed, uint64_t purpose, uint64_t step = 0) {
  const auto mixed = philox(seed, purpose, 0x7472697265'6d65ull);
  return {(uint64_t{mixed[1]} << 32) | mixed[0], step};
}

/// Uniform in [0, 1) with 24 bits.
constexpr float to_uniform(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

/// Four standard normal numbers of one block (Box-Muller).
inline std::array<float, 4> to_normal(const std::array<uint32_t, 4>& bits) {
  std::array<float, 4> out{};
  for (int i = 0; i < 4; i += 2) {
    const double u1 = (static_cast<double>(bits[i]) + 1.0) * 0x1p-32;  // (0, 1]
    const double u2 = static_cast<double>(bits[i + 1]) * 0x1p-32;
    const double r = std::sqrt(-2.0 * std::log(u1));
    out[i] = static_cast<float>(r * std::cos(2.0 * M_PI * u2));
    out[i + 1] = static_cast<float>(r * std::sin(2.0 * M_PI * u2));
  }
  return out;
}

}  // namespace trireme
