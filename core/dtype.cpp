#include "core/dtype.h"

#include <array>
#include <string>

#include "core/error.h"

namespace trireme {
namespace {

struct Row {
  DType dtype;
  std::string_view name;
  size_t bytes;
};
constexpr std::array<Row, 8> kRows{{{DType::f32, "f32", 4},
                                    {DType::bf16, "bf16", 2},
                                    {DType::f16, "f16", 2},
                                    {DType::f64, "f64", 8},
                                    {DType::i32, "i32", 4},
                                    {DType::i64, "i64", 8},
                                    {DType::u16, "u16", 2},
                                    {DType::u8, "u8", 1}}};

}  // namespace

size_t size_of(DType dtype) { return kRows[static_cast<size_t>(dtype)].bytes; }

std::string_view name_of(DType dtype) { return kRows[static_cast<size_t>(dtype)].name; }

DType parse_dtype(std::string_view name) {
  for (const Row& row : kRows)
    if (row.name == name) return row.dtype;
  throw ConfigError("unknown element type '" + std::string(name) + "': use f32, bf16, f16, f64, i32, i64, u16 or u8");
}

f16::f16(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t abs = u & 0x7fffffffu;
  if (abs > 0x7f800000u) {  // NaN
    bits = static_cast<uint16_t>(sign | 0x7e00u);
  } else if (abs >= 0x477ff000u) {  // rounds to infinity
    bits = static_cast<uint16_t>(sign | 0x7c00u);
  } else if (abs < 0x38800000u) {  // subnormal or zero: let the FPU round by adding 0.5
    const float rounded = std::bit_cast<float>(abs) + 0.5f;
    bits = static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(rounded) - 0x3f000000u));
  } else {
    const uint32_t odd = (abs >> 13) & 1;
    bits = static_cast<uint16_t>(sign | ((abs - 0x38000000u + 0xfffu + odd) >> 13));
  }
}

f16::operator float() const {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1f;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

}  // namespace trireme
