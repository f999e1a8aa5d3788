// attention() once more, put together from the kernels of attention in blocks on one rank: each sample is cut
// in two, and the second part meets the keys of the first one apart from its own.
#pragma once

#include <cmath>

#include "core/ops/attention_block.h"
#include "core/ops/elementwise.h"

namespace trireme {

class AttentionInBlocks : public Op {
 public:
  AttentionInBlocks(const AttentionShape& shape, int64_t cut) : shape_(shape) {
    const TokenRange first{0, cut}, second{cut, shape.tokens};
    AttentionShape unmasked = shape;
    unmasked.causal = false;
    blocks_ = {{shape, shape.tokens, first, first},
               {shape, shape.tokens, second, second},
               {unmasked, shape.tokens, second, first}};
    if (!shape.causal) blocks_.push_back({unmasked, shape.tokens, first, second});
  }
  std::string_view name() const override { return "attention_in_blocks"; }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    const Tensor& qkv = inputs[0];
    Tensor kv = ctx.empty({qkv.dim(0), kv_width()}, qkv.dtype());
    ctx.kernel<CopyColumnsKernel>()(ctx, qkv, q_width(), kv_width(), kv, 0);
    Tensor total = ctx.zeros({qkv.dim(0), q_width()});
    Tensor lse = ctx.empty({shape_.batch, shape_.heads, shape_.tokens});
    ctx.kernel<FillKernel>()(ctx, -INFINITY, lse);
    for (const AttentionBlock& block : blocks_) {
      Tensor part = ctx.empty({shape_.batch * block.queries.size(), q_width()});
      Tensor part_lse = ctx.empty({shape_.batch, shape_.heads, block.queries.size()});
      ctx.kernel<AttentionBlockForwardKernel>()(ctx, qkv, kv, block, part, part_lse);
      ctx.kernel<AttentionMergeKernel>()(ctx, part, part_lse, block, total, lse);
    }
    Tensor out = ctx.empty(total.shape(), qkv.dtype());
    ctx.kernel<CastKernel>()(ctx, total, out);
    saved.tensors = {qkv, kv, out, lse};
    return {out};
  }

  Tensors backward_input(Context& ctx, Saved& saved, Tensors dout) const override {
    const auto& [qkv, kv, out, lse] =
        std::tie(saved.tensors[0], saved.tensors[1], saved.tensors[2], saved.tensors[3]);
    Tensor dq = ctx.zeros(out.shape()), d_kv = ctx.zeros(kv.shape());
    for (const AttentionBlock& block : blocks_)
      ctx.kernel<AttentionBlockBackwardKernel>()(ctx, qkv, kv, out, lse, dout[0], block, dq, d_kv);
    Tensor d_qkv = ctx.empty(qkv.shape(), qkv.dtype());
    ctx.kernel<CopyColumnsKernel>()(ctx, dq, 0, q_width(), d_qkv, 0);
    ctx.kernel<CopyColumnsKernel>()(ctx, d_kv, 0, kv_width(), d_qkv, q_width());
    return {d_qkv};
  }

 private:
  int64_t q_width() const { return shape_.heads * shape_.head_dim; }
  int64_t kv_width() const { return 2 * shape_.kv_heads * shape_.head_dim; }

  AttentionShape shape_;
  std::vector<AttentionBlock> blocks_;
};

/// As attention(), with the tokens cut at `cut`.
inline Tensor attention_in_blocks(Context& ctx, const Tensor& qkv, const AttentionShape& shape, int64_t cut) {
  return apply(ctx, std::make_shared<AttentionInBlocks>(shape, cut), {qkv})[0];
}

}  // namespace trireme
