// Attention of samples whose tokens are spread over context ranks: keys and values go round a ring while each
// rank computes with those it holds (Liu et al., Ring Attention with Blockwise Transformers, 2023), on chunks
// that give every rank the same work under a causal mask (parallel/context_chunks.h).
// docs/context-parallelism.md has the whole story.
#pragma once

#include "comm/group.h"
#include "core/ops/attention.h"

namespace trireme {

/// As attention() of the whole samples. shape.tokens is what this rank holds of each sample, T / c with c
/// ranks in `ring`:
///   qkv [B * T / c, (H + 2K) * D], in the order of ContextChunks -> [B * T / c, H * D]
/// Without a causal mask any T / c tokens will do, in any order. Collective over `ring`, in both passes; all
/// ranks call with the same shape, a causal one with an even number of tokens. `ring` must outlive the tape
/// that records the call; no one else may use tags 1 and 2 of it meanwhile. Two runs give the same bits.
/// CommError as Work::wait().
Tensor ring_attention(Context& ctx, const Tensor& qkv, const AttentionShape& shape, Group& ring);

/// A byte round the ring for each kind of message, so that none has to connect later. Collective; blocks.
void connect_ring(const Context& ctx, Group& ring);

}  // namespace trireme
