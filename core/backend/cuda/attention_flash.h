// Attention by kernels of our own, for what cuDNN declines (f32, heads of any size up to 256, a single
// token), and in blocks. Arithmetic in f32; the same inputs give the same bits.
#pragma once

#include "core/context.h"
#include "core/ops/attention_block.h"

namespace trireme::cuda {

// As AttentionForwardKernel and AttentionBackwardKernel; lse is the natural logarithm, as cuDNN's.
void flash_forward(Context& ctx, const Tensor& qkv, const AttentionShape& shape, Tensor& out, Tensor& lse);
void flash_backward(Context& ctx, const Tensor& qkv, const Tensor& out, const Tensor& lse, const Tensor& dout,
                    const AttentionShape& shape, Tensor& d_qkv);

// As AttentionBlockForwardKernel and AttentionBlockBackwardKernel; lse natural.
void flash_forward_block(Context& ctx, const Tensor& qkv, const Tensor& kv, const AttentionBlock& block,
                         Tensor& out, Tensor& lse);
void flash_backward_block(Context& ctx, const Tensor& qkv, const Tensor& kv, const Tensor& out,
                          const Tensor& lse, const Tensor& dout, const AttentionBlock& block, Tensor& dq,
                          Tensor& d_kv);

/// The queries of qkv, at positions cache.length and on, against the keys and values in the cache, where
/// those of qkv are already.
void flash_forward_cached(Context& ctx, const Tensor& qkv, const AttentionShape& shape, const KvCache& cache,
                          Tensor& out);

void add_attention_block(Backend& backend);
void add_attention_decode(Backend& backend);

}  // namespace trireme::cuda
