#include "parallel/context_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "core/ops/attention_block.h"
#include "core/ops/elementwise.h"
#include "parallel/ring_attention.h"

namespace trireme {
namespace {

/// Adds the keys and values of the first cache.keep tokens of each text.
void keep(Context& ctx, const Tensor& qkv, const AttentionShape& s, ContextCache& cache) {
  const int64_t width = 2 * s.kv_heads * s.head_dim;
  TRIREME_ASSERT(cache.kv.shape() == Shape({s.batch * cache.capacity, width}) &&
                     cache.kv.dtype() == qkv.dtype() && cache.keep <= s.tokens &&
                     cache.length + cache.keep <= cache.capacity,
                 fmt::format("{} of {} tokens to keep beside {} in a cache of {}", cache.keep, s.tokens,
                             cache.length, to_string(cache.kv.shape())));
  if (cache.keep == 0) return;
  for (int64_t b = 0; b < s.batch; ++b) {
    const int64_t to = b * cache.capacity + cache.length;
    Tensor rows = cache.kv.slice(to, to + cache.keep);
    ctx.kernel<CopyColumnsKernel>()(ctx, qkv.slice(b * s.tokens, b * s.tokens + cache.keep),
                                    s.heads * s.head_dim, width, rows, 0);
  }
  cache.length += cache.keep;
}

/// A rank's part of the results, in the place of it in an array of all ranks' parts.
struct Partial {
  Partial(const Tensor& of_ranks, int64_t rank, const AttentionShape& s)
      : out(of_ranks.flat_view(rank * size(s), {s.batch, s.heads * s.head_dim})),
        lse(of_ranks.flat_view(rank * size(s) + out.numel(), {s.batch, s.heads, 1})) {}
  static int64_t size(const AttentionShape& s) { return s.batch * s.heads * (s.head_dim + 1); }

  Tensor out, lse;
};

/// What the query gets of the tokens held here: of none a result that counts nothing.
Tensor attend_to_held(Context& ctx, const Tensor& qkv, const AttentionBlock& block,
                      const ContextCache& cache) {
  const int64_t size = Partial::size(block.shape);
  if (block.keys.size() == 0) {
    std::vector<float> nothing(static_cast<size_t>(size));
    const auto lse = static_cast<ptrdiff_t>(block.shape.batch * block.shape.heads * block.shape.head_dim);
    std::fill(nothing.begin() + lse, nothing.end(), -std::numeric_limits<float>::infinity());
    return ctx.from_host<float>(nothing, {size});
  }
  const Tensor held = ctx.empty({size});
  Partial part(held, 0, block.shape);
  ctx.kernel<AttentionBlockForwardKernel>()(ctx, qkv, cache.kv, block, part.out, part.lse);
  return held;
}

}  // namespace

int64_t context_capacity(int64_t tokens, int64_t ranks) {
  return tokens / ranks + 3;  // chunks are rounded up, and so is the share of the tokens after them
}

Tensor ring_attention_cached(Context& ctx, const Tensor& qkv, const AttentionShape& shape,
                             ContextCache& cache, Group& ring) {
  TRIREME_ASSERT(cache.length == 0 && !ctx.tape, "a prompt goes into an empty cache, without a tape");
  const Tensor out = ring_attention(ctx, qkv, shape, ring);
  keep(ctx, qkv, shape, cache);
  return out;
}

Tensor spread_attention(Context& ctx, const Tensor& qkv, const AttentionShape& shape, ContextCache& cache,
                        Group& ring) {
  check_attention_shape(qkv, shape);
  TRIREME_ASSERT(shape.tokens == 1 && !ctx.tape, "one token at a time, without a tape");
  keep(ctx, qkv, shape, cache);
  AttentionBlock block{shape, cache.capacity, {0, 1}, {0, cache.length}};
  block.shape.causal = false;  // all that is held comes before
  const Tensor mine = attend_to_held(ctx, qkv, block, cache);
  const Tensor parts = ctx.empty({ring.size() * mine.numel()});
  ring.all_gather(mine, parts, "attention to the ranks' tokens", ctx.stream).wait(*ctx.stream);
  Partial total(parts, 0, shape);
  for (int rank = 1; rank < ring.size(); ++rank) {
    const Partial part(parts, rank, shape);
    ctx.kernel<AttentionMergeKernel>()(ctx, part.out, part.lse, block, total.out, total.lse);
  }
  return cast(ctx, total.out, qkv.dtype());
}

}  // namespace trireme
