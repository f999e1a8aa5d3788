// How the classifiers of GPUs cut rows into chunks.
#pragma once

#include <cstdint>

namespace trireme::cuda {

inline constexpr int64_t kMaxClassifierBytes = int64_t{1} << 29;  // of logits at a time
inline constexpr int64_t kTile = 128;                             // rows of a product's tile

/// Rows of a chunk: at most `max_rows`; all chunks of one size and of whole tiles, where such a size is near.
inline int64_t chunk_rows_of(int64_t rows, int64_t max_rows) {
  if (rows <= max_rows) return rows;
  const int64_t fewest = (rows + max_rows - 1) / max_rows;
  for (int64_t count = fewest; count <= fewest + fewest / 2 + 1; ++count)
    if (rows % (count * kTile) == 0) return rows / count;
  return max_rows >= kTile ? max_rows / kTile * kTile : max_rows;
}

}  // namespace trireme::cuda
