// The arithmetic of reductions: several arrays to one, in a fixed order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "comm/group.h"

namespace trireme::comm {

/// out[i] = op over s of sources[s][i], i < n, taken in the order of `sources`: bf16 and f16 in f32, rounded
/// once. `out` may be one of the sources. Not for u8 and u16.
void reduce(DType dtype, ReduceOp op, std::span<const std::byte* const> sources, std::byte* out, int64_t n);

}  // namespace trireme::comm
