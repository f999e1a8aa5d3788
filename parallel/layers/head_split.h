// Which attention heads a tensor rank has. Heads need not divide evenly, and there may be fewer key/value
// heads than ranks: then neighbours hold the same one, and each sees a part of its gradient.
#pragma once

#include <cstdint>

#include "core/parameter.h"
#include "parallel/layers/even_split.h"

namespace trireme {

struct HeadSplit {
  Part q, kv;                 // heads
  int64_t kv_first_rank = 0;  // of those that hold these key/value heads
  bool kv_primary = true;     // that is this one
  bool kv_shared = false;     // there may be others
};

/// The heads of tensor rank `rank` of `ranks`. Each query head lies with its key/value head. ConfigError when
/// a rank would have none.
HeadSplit split_heads(int64_t heads, int64_t kv_heads, int64_t ranks, int64_t rank);

/// Rows of the fused product for q, k and v, [(H + 2K) D, C], that the rank has.
Placement qkv_placement(const HeadSplit& split, int64_t heads, int64_t kv_heads, int64_t head_dim);

}  // namespace trireme
