// How the tokens of a sample are spread over c context ranks: cut into 2c chunks, of which rank r has the
// r-th from the front and the r-th from the back (the "zigzag" of ring attention). Under a causal mask late
// tokens see more keys than early ones; with one of each all ranks have the same work.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "core/ops/attention_block.h"

namespace trireme {

/// What else numbers that are suggested must obey.
struct ContextLimits {
  int64_t most_tokens = std::numeric_limits<int64_t>::max();
  std::function<bool(int64_t ranks)> takes_ranks = [](int64_t) { return true; };
};

/// ConfigError, saying which numbers would work, unless `tokens` divide into 2 * ranks chunks. One rank takes
/// any.
void check_context_chunks(int64_t tokens, int64_t ranks, const ContextLimits& limits = {});

/// The tokens of rank `rank`, for sizes that check_context_chunks() accepts.
struct ContextChunks {
  int64_t tokens = 0;  // T, of a whole sample
  int64_t ranks = 1;   // c
  int64_t rank = 0;

  int64_t local_tokens() const { return tokens / ranks; }
  /// The positions in the sample, in the order in which the rank holds them.
  std::array<TokenRange, 2> ranges() const;
  /// The position of the rank's token t, 0 <= t < local_tokens().
  int64_t position(int64_t t) const;
  /// How many of the rank's tokens stand before `position` in the sample: its first ones.
  int64_t num_before(int64_t position) const;
  /// The rank that has the token at `position`.
  int64_t owner_of(int64_t position) const;
};

/// The rank's tokens of whole samples: rows [B, T] -> [B, T / c].
std::vector<int32_t> take_chunks(std::span<const int32_t> samples, const ContextChunks& chunks);

}  // namespace trireme
