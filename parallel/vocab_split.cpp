#include "parallel/vocab_split.h"

#include <fmt/format.h>

#include "core/error.h"

namespace trireme {

std::vector<Part> split_vocab(int64_t vocab, int64_t ranks) {
  if (vocab < ranks)
    throw ConfigError(fmt::format("parallel.tensor = {}: a vocabulary of {} does not give each rank a row; set parallel.tensor to {} or less",
                                  ranks, vocab, vocab));
  std::vector<Part> parts;
  for (int64_t rank = 0; rank < ranks; ++rank) parts.push_back(split_in_blocks(vocab, ranks, rank));
  return parts;
}

}  // namespace trireme
