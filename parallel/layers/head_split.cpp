#include "parallel/layers/head_split.h"

#include <fmt/format.h>

#include "core/error.h"

namespace trireme {

HeadSplit split_heads(int64_t heads, int64_t kv_heads, int64_t ranks, int64_t rank) {
  const int64_t queries = heads / kv_heads;  // that share a key/value head
  if (kv_heads >= ranks) {
    const Part kv = even_part(kv_heads, ranks, rank);
    return {{kv.begin * queries, kv.end * queries}, kv, rank, true, false};
  }
  const int64_t most_sharers = (ranks + kv_heads - 1) / kv_heads;
  if (queries < most_sharers)
    throw ConfigError(fmt::format(
        "parallel.tensor = {}: model.heads = {} with model.kv_heads = {} do not give each rank a head; "
        "set parallel.tensor to {} or less",
        ranks, heads, kv_heads, kv_heads * queries));
  for (int64_t head = 0;; ++head) {
    const Part sharers = even_part(ranks, kv_heads, head);
    if (rank >= sharers.end) continue;
    const Part q = even_part(queries, sharers.end - sharers.begin, rank - sharers.begin);
    const int64_t first = head * queries;
    return {{first + q.begin, first + q.end}, {head, head + 1}, sharers.begin, rank == sharers.begin, true};
  }
}

Placement qkv_placement(const HeadSplit& split, int64_t heads, int64_t kv_heads, int64_t head_dim) {
  const auto rows = [&](int64_t first_head, const Part& part, bool primary, bool shared) {
    return Placement::Range{(first_head + part.begin) * head_dim, (first_head + part.end) * head_dim, primary,
                            shared};
  };
  Placement placement;
  placement.dim = 0;
  placement.global = (heads + 2 * kv_heads) * head_dim;
  placement.ranges = {rows(0, split.q, true, false), rows(heads, split.kv, split.kv_primary, split.kv_shared),
                      rows(heads + kv_heads, split.kv, split.kv_primary, split.kv_shared)};
  return placement;
}

}  // namespace trireme
