// Conversion of elements between floating-point types, from and to bytes that need not be aligned.
#pragma once

#include <cstddef>
#include <span>

#include "core/dtype.h"

namespace trireme {

/// True between equal types and between any two floating-point types.
bool convertible(DType from, DType to);

/// Writes the elements of `source` to `target` (as many), rounding to nearest even.
void convert_elements(DType from, std::span<const std::byte> source, DType to, std::span<std::byte> target);

}  // namespace trireme
