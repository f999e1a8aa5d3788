// Smallest, largest, mean and standard deviation of a tensor's elements, read piece by piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "core/dtype.h"

namespace trireme {

struct TensorStatistics {
  int64_t count = 0;       // of finite elements; the rest below is about them
  int64_t not_finite = 0;  // NaN or infinite
  double min = 0.0, max = 0.0;
  double mean = 0.0;
  double std_deviation = 0.0;  // of the elements as a whole population
};

/// Fills `out` with elements [begin, end), in the type that measure() was told.
using ElementReader = std::function<void(int64_t begin, int64_t end, std::span<std::byte> out)>;

TensorStatistics measure(DType dtype, int64_t numel, const ElementReader& read);

}  // namespace trireme
