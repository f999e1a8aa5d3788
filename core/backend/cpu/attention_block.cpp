// Attention in blocks: the tiles of the forward and the backward pass on ranges of tokens, and merging their
// results.
#include "core/ops/attention_block.h"

#include <cmath>

#include "core/backend/cpu/attention_backward.h"
#include "core/backend/cpu/attention_forward.h"
#include "core/backend/cpu/dispatch.h"
#include "core/backend/cpu/parallel.h"

namespace trireme::cpu {
namespace {

/// Head `head` of the rows of `tokens` tokens a sample, `stride` elements wide, from token `begin` on.
template <class T>
Heads<T> heads_of(T* data, int64_t tokens, int64_t begin, int64_t stride, int64_t head, int64_t head_dim) {
  return {data + begin * stride + head * head_dim, tokens * stride, stride, head_dim};
}

void block_forward(Context& ctx, const Tensor& qkv, const Tensor& kv, const AttentionBlock& block,
                   Tensor& out, Tensor& lse) {
  const AttentionShape& s = block.shape;
  dispatch_compute("attention of a block", qkv.dtype(), [&]<class T>(T) {
    const int64_t stride = s.qkv_width(), kv_stride = 2 * s.kv_heads * s.head_dim;
    const T* keys = kv.data<T>() + block.keys.begin * kv_stride;
    attend(ctx, AttentionOperands<T, float>{.queries = qkv.data<T>() + block.queries.begin * stride,
                                            .query_batch_stride = s.tokens * stride,
                                            .query_stride = stride,
                                            .keys = keys,
                                            .values = keys + s.kv_heads * s.head_dim,
                                            .key_batch_stride = block.kv_tokens * kv_stride,
                                            .key_stride = kv_stride,
                                            .out = out.data<float>(),
                                            .lse = lse.data<float>(),
                                            .batch = s.batch,
                                            .heads = s.heads,
                                            .kv_heads = s.kv_heads,
                                            .head_dim = s.head_dim,
                                            .num_queries = block.queries.size(),
                                            .num_keys = block.keys.size(),
                                            .causal = s.causal});
  });
}

void block_backward(Context& ctx, const Tensor& qkv, const Tensor& kv, const Tensor& out, const Tensor& lse,
                    const Tensor& d_out, const AttentionBlock& block, Tensor& dq, Tensor& d_kv) {
  const AttentionShape& s = block.shape;
  dispatch_compute("attention of a block", qkv.dtype(), [&]<class T>(T) {
    const auto queries = [&](auto* data, int64_t stride) {
      return heads_of(data, s.tokens, block.queries.begin, stride, 0, s.head_dim);
    };
    const auto keys = [&](auto* data, int64_t head) {
      return heads_of(data, block.kv_tokens, block.keys.begin, 2 * s.kv_heads * s.head_dim, head, s.head_dim);
    };
    const int64_t out_width = s.heads * s.head_dim;
    const T *q = qkv.data<T>(), *k = kv.data<T>(), *po = out.data<T>(), *pd = d_out.data<T>();
    attend_backward(
        ctx, AttentionGradients<T, float, Result::add>{.queries = queries(q, s.qkv_width()),
                                                       .keys = keys(k, 0),
                                                       .values = keys(k, s.kv_heads),
                                                       .out = queries(po, out_width),
                                                       .d_out = queries(pd, out_width),
                                                       .d_queries = queries(dq.data<float>(), out_width),
                                                       .d_keys = keys(d_kv.data<float>(), 0),
                                                       .d_values = keys(d_kv.data<float>(), s.kv_heads),
                                                       .lse = lse.data<float>() + block.queries.begin,
                                                       .lse_stride = s.tokens,
                                                       .batch = s.batch,
                                                       .heads = s.heads,
                                                       .kv_heads = s.kv_heads,
                                                       .head_dim = s.head_dim,
                                                       .num_queries = block.queries.size(),
                                                       .num_keys = block.keys.size(),
                                                       .causal = s.causal});
  });
}

/// total = (total_w total + w x) / (total_w + w), w being 2^lse, for one head of one token.
void merge_row(const float* x, float lse, int64_t dim, float* total, float& total_lse) {
  const float maximum = std::max(lse, total_lse);
  const float w = std::exp2(lse - maximum), total_w = std::exp2(total_lse - maximum), sum = w + total_w;
  const float factor = w / sum, total_factor = total_w / sum;
#pragma omp simd
  for (int64_t d = 0; d < dim; ++d) total[d] = total_factor * total[d] + factor * x[d];
  total_lse = maximum + std::log2(sum);
}

void merge(Context& ctx, const Tensor& out, const Tensor& lse, const AttentionBlock& block, Tensor& total_out,
           Tensor& total_lse) {
  const AttentionShape& s = block.shape;
  const int64_t n = block.queries.size(), width = s.heads * s.head_dim;
  const float *px = out.data<float>(), *plse = lse.data<float>();
  float *pt = total_out.data<float>(), *ptlse = total_lse.data<float>();
  for_rows(ctx, s.batch * n, width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / n, i = row % n, t = block.queries.begin + i;
      for (int64_t h = 0; h < s.heads; ++h)
        merge_row(px + row * width + h * s.head_dim, plse[(b * s.heads + h) * n + i], s.head_dim,
                  pt + (b * s.tokens + t) * width + h * s.head_dim, ptlse[(b * s.heads + h) * s.tokens + t]);
    }
  });
}

}  // namespace

void add_attention_block(Backend& backend) {
  backend.add_kernel<AttentionBlockForwardKernel>(&block_forward);
  backend.add_kernel<AttentionBlockBackwardKernel>(&block_backward);
  backend.add_kernel<AttentionMergeKernel>(&merge);
}

}  // namespace trireme::cpu
