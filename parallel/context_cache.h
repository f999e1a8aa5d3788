// ContextCache: keys and values of texts whose tokens are spread over context ranks, for generation. A prompt
// goes round the ring, and each rank keeps the keys of its own chunks. Every token after it is computed by
// all ranks alike: each attends to the keys that it holds, their partial results are gathered and merged, and
// one rank keeps the token's own keys.
#pragma once

#include "comm/group.h"
#include "core/ops/attention.h"

namespace trireme {

/// Of one layer, what this rank holds of B texts: of each equally many tokens.
struct ContextCache {
  Tensor kv;             // [B * capacity, 2K * D], each row k's heads, then v's
  int64_t capacity = 0;  // tokens of each text
  int64_t length = 0;    // tokens held, at the front
  int64_t keep = 0;      // of the tokens that come next, how many are kept here: the first ones
};

/// A layer's keys and values in generation: of whole texts, or of a context rank's part of them.
struct LayerCache {
  KvCache whole;
  ContextCache part;
};

/// What each of `ranks` must have room for, of texts of up to `tokens` tokens: of a prompt what ContextChunks
/// gives it, and every token after it that owner_of() does.
int64_t context_capacity(int64_t tokens, int64_t ranks);
/// The rank that keeps the token at `position`, if that comes after the prompt.
constexpr int owner_of(int64_t position, int64_t ranks) {
  return static_cast<int>(position % ranks);
}

/// The prompt, with an empty cache: as ring_attention(), and keeps `cache.keep` tokens' keys.
Tensor ring_attention_cached(Context& ctx, const Tensor& qkv, const AttentionShape& shape,
                             ContextCache& cache, Group& ring);

/// One token of each text, which follows those that all ranks of `ring` hold:
///   qkv [B, (H + 2K) * D], the same on all ranks -> [B, H * D], the same bits on all ranks
/// Rank 0 holds a token at least, one rank has cache.keep = 1 and all others 0. Collective over `ring`; not
/// differentiable. CommError as Work::wait().
Tensor spread_attention(Context& ctx, const Tensor& qkv, const AttentionShape& shape, ContextCache& cache,
                        Group& ring);

}  // namespace trireme
