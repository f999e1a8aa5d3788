#include "core/checkpoint/convert.h"

#include <cstring>
#include <type_traits>

#include "core/error.h"

namespace trireme {
namespace {

/// bf16 and f16 round from f32; a double reaches them through one.
template <class To, class From>
To convert(From value) {
  if constexpr (std::is_arithmetic_v<To> && std::is_arithmetic_v<From>) {
    return static_cast<To>(value);
  } else if constexpr (std::is_arithmetic_v<From>) {
    return To(static_cast<float>(value));
  } else {
    return static_cast<To>(static_cast<float>(value));
  }
}

template <class From, class To>
void convert_all(const std::byte* source, std::byte* target, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    From from;
    std::memcpy(&from, source + i * sizeof(From), sizeof(From));
    const To to = convert<To>(from);
    std::memcpy(target + i * sizeof(To), &to, sizeof(To));
  }
}

/// Calls f with a value of the C++ type that `dtype` names.
template <class F>
void with_float_type(DType dtype, F&& f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == DType::bf16) return f(bf16{});
  if (dtype == DType::f16) return f(f16{});
  return f(double{});
}

}  // namespace

bool convertible(DType from, DType to) {
  return from == to || (is_float(from) && is_float(to));
}

void convert_elements(DType from, std::span<const std::byte> source, DType to, std::span<std::byte> target) {
  const size_t count = source.size() / size_of(from);
  TRIREME_ASSERT(convertible(from, to) && target.size() == count * size_of(to),
                 "convert_elements: types or sizes");
  if (from == to) {
    if (count > 0) std::memcpy(target.data(), source.data(), source.size());
    return;
  }
  with_float_type(from, [&](auto f) {
    with_float_type(
        to, [&](auto t) { convert_all<decltype(f), decltype(t)>(source.data(), target.data(), count); });
  });
}

}  // namespace trireme
