// Attention as graphs of cuDNN's operations: the chains of products, masks and sums that cuDNN's engines
// recognise and run as one kernel without a T x T matrix in memory.
#pragma once

#include "core/backend/cuda/cudnn_graph.h"
#include "core/ops/attention.h"

namespace trireme::cuda {

/// Some samples and heads of an attention, in the memory of the whole.
struct AttentionPart {
  AttentionShape shape;     // batch, heads and kv_heads are the part's
  int64_t qkv_width = 0;    // elements a token of the whole's packed q, k, v
  int64_t total_heads = 0;  // H of the whole
  cudnnDataType_t type = CUDNN_DATA_BFLOAT16;
  bool deterministic = true;  // of backward: dq is not summed with atomic additions

  using Key = std::array<int64_t, 10>;
  Key key() const {
    return {shape.batch,    shape.tokens,   shape.heads,
            shape.kv_heads, shape.head_dim, shape.causal,
            qkv_width,      total_heads,    static_cast<int64_t>(type),
            deterministic};
  }
};

/// What the plans of these graphs are given pointers to. Strides are those of AttentionForwardKernel's
/// tensors; lse is the natural logarithm.
enum AttentionTensor : int64_t {
  kQueries = 1,
  kKeys,
  kValues,
  kOut,
  kLse,
  kDOut,
  kDQueries,
  kDKeys,
  kDValues,
  kSums,           // f32 [B, H, T] of the part: scratch of backward
  kDQSum,          // f32 [B, H, T, D] of the part: scratch of backward that is not deterministic
  kScale,          // this and the rest: f32 in host memory
  kMinusInfinity,  // where causal
  kOne,            // of backward
};

CudnnGraph attention_forward_graph(const AttentionPart& part);
CudnnGraph attention_backward_graph(const AttentionPart& part);

}  // namespace trireme::cuda
