#include "parallel/vocab_split.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace trireme {
namespace {

constexpr int64_t kMaxStep = 64;
constexpr int64_t kMaxExcess = 16;  // at most a 16th above the mean

/// The largest step whose units of so many rows keep all ranks busy and balanced.
int64_t step_of(int64_t rows, int64_t ranks) {
  for (int64_t step = kMaxStep; step > 1; step /= 2) {
    const int64_t units = (rows + step - 1) / step;
    const int64_t most = (units + ranks - 1) / ranks * step;
    if (units >= ranks && most * ranks * kMaxExcess <= rows * (kMaxExcess + 1)) return step;
  }
  return 1;
}

}  // namespace

std::vector<VocabRows> split_vocab(int64_t rows, int64_t ranks) {
  TRIREME_ASSERT(rows > 0 && ranks > 0, fmt::format("a vocabulary of {} rows for {} ranks", rows, ranks));
  if (rows < ranks)
    throw ConfigError(
        fmt::format("parallel.tensor = {} leaves ranks without a row of the vocabulary's {}; set "
                    "parallel.tensor to {} or less, or make model.vocab larger",
                    ranks, rows, rows));
  const int64_t step = step_of(rows, ranks), units = (rows + step - 1) / step;
  // The first ranks take what is left of an equal share: the last unit may be short.
  const auto first_of = [&](int64_t rank) {
    return (units / ranks * rank + std::min(rank, units % ranks)) * step;
  };
  std::vector<VocabRows> parts;
  for (int64_t rank = 0; rank < ranks; ++rank)
    parts.push_back({first_of(rank), std::min(first_of(rank + 1), rows) - first_of(rank)});
  return parts;
}

}  // namespace trireme
