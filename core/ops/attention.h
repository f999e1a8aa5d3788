// attention: softmax(q k^T / sqrt(D)) v in tiles, never holding a T x T matrix (Dao et al., FlashAttention,
// 2022).
#pragma once

#include "core/op.h"

namespace trireme {

struct AttentionShape {
  int64_t batch = 0;     // B
  int64_t tokens = 0;    // T
  int64_t heads = 0;     // H, of q
  int64_t kv_heads = 0;  // K, of k and v; divides H (grouped-query attention when less)
  int64_t head_dim = 0;  // D
  bool causal = true;

  /// Of one product of T x T x D a head over B; a causal mask leaves half. Forward has two, backward five.
  double product_flop() const {
    return (causal ? 1.0 : 2.0) * static_cast<double>(batch * heads * head_dim) * static_cast<double>(tokens) * static_cast<double>(tokens);
  }
  int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
};

/// Keys and values of the tokens so far of one layer, for generation.
struct KvCache {
  Tensor keys, values;  // [B, capacity, K, D]
  int64_t length = 0;   // tokens held
};

/// lse [B, H, T] f32 is the logarithm of each row's sum of exponentials of scores, which the same backend's
/// backward needs: to base 2 on the CPU, natural on GPUs (as cuDNN has it).
struct AttentionForwardKernel {
  using Fn = void(Context&, const Tensor& qkv, const AttentionShape& shape, Tensor& out, Tensor& lse);
};
struct AttentionBackwardKernel {
  using Fn = void(Context&, const Tensor& qkv, const Tensor& out, const Tensor& lse, const Tensor& dout,
                  const AttentionShape& shape, Tensor& d_qkv);  // d_qkv is written, every element
};
/// Writes the new keys and values into the cache behind `length` tokens (which it leaves as it is).
struct AttentionCachedKernel {
  using Fn = void(Context&, const Tensor& qkv, const AttentionShape& shape, const KvCache& cache,
                  Tensor& out);
};

/// ConfigError when there is no attention with such heads; an assert when qkv does not have that shape.
void check_attention_shape(const Tensor& qkv, const AttentionShape& shape);

/// qkv [B*T, (H + 2K) * D], each row q's heads, then k's, then v's -> [B*T, H * D].
Tensor attention(Context& ctx, const Tensor& qkv, const AttentionShape& shape);

/// Attention of `shape.tokens` new tokens over those in the cache and themselves; appends to the cache.
/// Not differentiable. ConfigError when the cache's capacity is exceeded.
Tensor attention_cached(Context& ctx, const Tensor& qkv, const AttentionShape& shape, KvCache& cache);

}  // namespace trireme
