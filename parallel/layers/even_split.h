// Parts of a range, one a rank, that differ little in size.
#pragma once

#include <algorithm>
#include <cstdint>

namespace trireme {

/// The things [begin, end) of n.
struct Part {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

/// The index-th of `parts` parts of `n` things, which differ by one at most, larger ones first.
inline Part even_part(int64_t n, int64_t parts, int64_t index) {
  const int64_t small = n / parts, larger = n % parts;
  const int64_t begin = index * small + std::min(index, larger);
  return {begin, begin + small + (index < larger ? 1 : 0)};
}

/// The same in multiples of a power of two, up to 64, as matrix products like their sizes; as large a one as
/// leaves each part four blocks, else 1. The last part takes what is no whole block.
inline Part split_in_blocks(int64_t n, int64_t parts, int64_t index) {
  int64_t block = 64;
  while (block > 1 && n / block < 4 * parts) block /= 2;
  const Part blocks = even_part(n / block, parts, index);
  return {blocks.begin * block, index + 1 == parts ? n : blocks.end * block};
}

}  // namespace trireme
