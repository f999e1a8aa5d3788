// Attention in blocks: some queries against some keys and values, and what puts the partial results together.
// What context parallelism is made of (parallel/ring_attention.h): the whole is never in one place.
#pragma once

#include "core/ops/attention.h"

namespace trireme {

/// Tokens [begin, end) of each sample.
struct TokenRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

/// B samples, each with T tokens of queries in `qkv` and S tokens of keys and values in `kv`; the block takes
/// n of the queries and m of the keys.
///   qkv  [B * T, (H + 2K) * D], of which the queries are used
///   kv   [B * S, 2K * D], each row k's heads, then v's, of qkv's type
/// If shape.causal, n = m, and the i-th query of the range sees the keys up to the i-th of theirs; else all
/// of them.
struct AttentionBlock {
  AttentionShape shape;   // tokens: T
  int64_t kv_tokens = 0;  // S
  TokenRange queries, keys;
};

/// out [B * n, H * D] f32 and lse [B, H, n] f32, as AttentionForwardKernel's: the results if there were no
/// other keys.
struct AttentionBlockForwardKernel {
  using Fn = void(Context&, const Tensor& qkv, const Tensor& kv, const AttentionBlock& block, Tensor& out,
                  Tensor& lse);
};
/// Adds to the results of all T queries so far, total_out [B * T, H * D] f32 and total_lse [B, H, T], those
/// of the block: with weights w = exp(lse), total_out = (total_w total_out + w out) / (total_w + w), and
/// total_lse = log(total_w + w) (Liu et al., Ring Attention, 2023). total_lse may be minus infinity.
struct AttentionMergeKernel {
  using Fn = void(Context&, const Tensor& out, const Tensor& lse, const AttentionBlock& block,
                  Tensor& total_out, Tensor& total_lse);
};
/// dq [B * T, H * D] f32 and d_kv [B * S, 2K * D] f32 += the gradients of the block, given the final results
/// of all T queries: out and dout [B * T, H * D] of qkv's type, lse [B, H, T].
struct AttentionBlockBackwardKernel {
  using Fn = void(Context&, const Tensor& qkv, const Tensor& kv, const Tensor& out, const Tensor& lse,
                  const Tensor& dout, const AttentionBlock& block, Tensor& dq, Tensor& d_kv);
};

}  // namespace trireme
