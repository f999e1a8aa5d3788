// The rows of a vocabulary's tables that each tensor rank has.
#pragma once

#include <vector>

#include "parallel/layers/even_split.h"

namespace trireme {

/// Parts of `vocab` rows, one a rank, in whole blocks of rows as matrix products like them. ConfigError when a rank would
/// have none.
std::vector<Part> split_vocab(int64_t vocab, int64_t ranks);

}  // namespace trireme
