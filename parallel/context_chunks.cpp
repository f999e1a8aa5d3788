#include "parallel/context_chunks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.h"

namespace trireme {
namespace {

bool works(int64_t tokens, int64_t ranks) {
  return ranks == 1 || (tokens > 0 && tokens % (2 * ranks) == 0);
}

/// The nearest numbers of ranks that work, below and above.
std::vector<int64_t> nearest_ranks(int64_t tokens, int64_t ranks, const ContextLimits& limits) {
  const auto takes = [&](int64_t n) { return works(tokens, n) && limits.takes_ranks(n); };
  std::vector<int64_t> nearest;
  for (int64_t below = std::min(ranks - 1, std::max<int64_t>(1, tokens / 2)); below >= 1 && nearest.empty(); --below)
    if (takes(below)) nearest.push_back(below);
  for (int64_t above = ranks + 1; above <= tokens / 2; ++above)
    if (takes(above)) {
      nearest.push_back(above);
      break;
    }
  return nearest;
}

}  // namespace

void check_context_chunks(int64_t tokens, int64_t ranks, const ContextLimits& limits) {
  if (ranks < 1) throw ConfigError(fmt::format("parallel.context = {} must be 1 or more", ranks));
  if (works(tokens, ranks)) return;
  const int64_t chunks = 2 * ranks, below = tokens / chunks * chunks;
  std::vector<int64_t> lengths;
  for (const int64_t length : {below, below + chunks})
    if (length > 0 && length <= limits.most_tokens) lengths.push_back(length);
  std::vector<std::string> ways;
  if (!lengths.empty()) ways.push_back(fmt::format("batch.sequence to {}", fmt::join(lengths, " or ")));
  if (const auto other = nearest_ranks(tokens, ranks, limits); !other.empty())
    ways.push_back(fmt::format("parallel.context to {}", fmt::join(other, " or ")));
  throw ConfigError(fmt::format("batch.sequence = {} does not divide into 2 * parallel.context = {} chunks; {}", tokens, chunks,
                                ways.empty() ? "start another number of ranks" : fmt::format("set {}", fmt::join(ways, ", or "))));
}

std::array<TokenRange, 2> ContextChunks::ranges() const {
  const int64_t first = local_tokens() / 2,
                second = local_tokens() - first;  // equal if there are several ranks
  return {TokenRange{rank * first, (rank + 1) * first},
          TokenRange{tokens - (rank + 1) * second, tokens - rank * second}};
}

int64_t ContextChunks::position(int64_t t) const {
  const auto [first, second] = ranges();
  return t < first.size() ? first.begin + t : second.begin + t - first.size();
}

int64_t ContextChunks::num_before(int64_t position) const {
  int64_t count = 0;
  for (const TokenRange& range : ranges()) count += std::clamp<int64_t>(position - range.begin, 0, range.size());
  return count;
}

int64_t ContextChunks::owner_of(int64_t position) const {
  if (ranks == 1) return 0;
  const int64_t chunk = position / (tokens / (2 * ranks));
  return std::min(chunk, 2 * ranks - 1 - chunk);
}

std::vector<int32_t> take_chunks(std::span<const int32_t> samples, const ContextChunks& chunks) {
  const auto tokens = static_cast<size_t>(chunks.tokens);
  TRIREME_ASSERT(tokens > 0 && samples.size() % tokens == 0,
                 fmt::format("take_chunks: {} tokens are not samples of {}", samples.size(), tokens));
  std::vector<int32_t> taken;
  taken.reserve(samples.size() / static_cast<size_t>(chunks.ranks));
  for (size_t sample = 0; sample < samples.size(); sample += tokens)
    for (const TokenRange& range : chunks.ranges()) {
      const auto part =
          samples.subspan(sample + static_cast<size_t>(range.begin), static_cast<size_t>(range.size()));
      taken.insert(taken.end(), part.begin(), part.end());
    }
  return taken;
}

}  // namespace trireme
