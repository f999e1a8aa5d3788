// Masters of bf16 weights in two halves: the bf16 itself, which is the master rounded to nearest even, and 16 bits of what
// that lacks. So an f32 master costs 2 bytes a parameter beside the weights, not 4. Host and device share this code.
#pragma once

#include <cstdint>

namespace trireme {

/// The bits of an f32 master that the halves can hold: itself, but for one that lies in the middle of two bf16 and rounds
/// down, which is lowered by its last bit (about one in 130,000, by 2^-24 of its size).
constexpr uint32_t settle_master(uint32_t bits) { return bits - ((bits & 0x1ffffu) == 0x8000u ? 1u : 0u); }

/// The bf16 of a settled master: rounded to nearest even, as bf16(float) does it.
constexpr uint16_t round_master(uint32_t bits) {
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, quiet_nan = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

/// The other half: the difference to `data`, which is round_master(bits), in two's complement.
constexpr uint16_t rest_of_master(uint32_t bits, uint16_t data) { return static_cast<uint16_t>(bits - (uint32_t{data} << 16)); }

/// The settled master. Of one that is not a number, another one that is not.
constexpr uint32_t join_master(uint16_t data, uint16_t rest) {
  return (uint32_t{data} << 16) + static_cast<uint32_t>(static_cast<int32_t>(static_cast<int16_t>(rest)));
}

}  // namespace trireme
