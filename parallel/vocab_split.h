// vocab_split: which rows of the vocabulary's tables each tensor rank holds.
#pragma once

#include <cstdint>
#include <vector>

namespace trireme {

struct VocabRows {
  int64_t first = 0, count = 0;
  int64_t end() const { return first + count; }
  bool operator==(const VocabRows&) const = default;
};

/// [0, rows) in order, at least one row for each of `ranks`. All but the last part are multiples of 64 rows,
/// as matrix products like it, where no rank then has more than a sixteenth above the mean; else of 32, 16,
/// ... or 1. ConfigError, saying which parallel.tensor would work, when there are fewer rows than ranks.
std::vector<VocabRows> split_vocab(int64_t rows, int64_t ranks);

}  // namespace trireme
