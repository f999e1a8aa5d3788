// nn::Attention: multi-head self-attention with one product for q, k and v (grouped-query when kv_heads <
// heads). Heads are divided over the tensor ranks, tokens over the context ranks.
#pragma once

#include "core/nn/linear.h"
#include "core/ops/attention.h"
#include "parallel/context_cache.h"
#include "parallel/layers/head_split.h"
#include "parallel/model_layout.h"
#include "parallel/ring_attention.h"

namespace trireme::nn {

struct AttentionConfig {
  int64_t width = 0;     // C
  int64_t heads = 0;     // H
  int64_t kv_heads = 0;  // K
  bool causal = true;
  bool bias = true;
  Init init;       // of the q, k, v product
  Init proj_init;  // of the output product
};

class Attention : public Module {
 public:
  Attention(Module* parent, std::string name, const AttentionConfig& config, const ModelLayout& layout = {})
      : Module(parent, std::move(name)),
        config_(config),
        layout_(layout),
        split_(split_heads(config.heads, config.kv_heads, layout.tensor.size(), layout.tensor.rank())),
        qkv_(this, "qkv", config.width, (config.heads + 2 * config.kv_heads) * head_dim(), config.bias,
             config.init,
             layout.tensor.size() == 1 ? Placement()
                                       : qkv_placement(split_, config.heads, config.kv_heads, head_dim())),
        proj_(this, "proj", config.width, config.width, config.bias, config.proj_init,
              layout.tensor.size() == 1 ? Placement()
                                        : Placement::split(1, config.width, split_.q.begin * head_dim(),
                                                           split_.q.end * head_dim())) {}

  /// x [B*T, C] -> q, k and v of the heads here, [B*T, (H + 2K) D].
  Tensor project(Context& ctx, const Tensor& x) { return qkv_(ctx, x); }
  /// What project() gave -> this rank's part of the sum [B*T, C] over the tensor ranks (see
  /// TensorParallel::leave). With `cache`, the new tokens attend to the cached ones too and are added to it.
  Tensor attend(Context& ctx, const Tensor& qkv, int64_t batch, LayerCache* cache = nullptr) {
    const AttentionShape shape{batch,      qkv.dim(0) / batch, split_.q.end - split_.q.begin,
                               kv_heads(), head_dim(),         config_.causal};
    return proj_(ctx, mix(ctx, qkv, shape, cache), layout_.tensor.is_first());
  }
  int64_t head_dim() const { return config_.width / config_.heads; }
  int64_t kv_heads() const { return split_.kv.end - split_.kv.begin; }  // here

 private:
  Tensor mix(Context& ctx, const Tensor& qkv, const AttentionShape& shape, LayerCache* cache) const {
    if (layout_.context_size() == 1)
      return cache ? attention_cached(ctx, qkv, shape, cache->whole) : attention(ctx, qkv, shape);
    Group& ring = *layout_.context;
    if (!cache) return ring_attention(ctx, qkv, shape, ring);
    return shape.tokens == 1 ? spread_attention(ctx, qkv, shape, cache->part, ring)  // prompts have two or more here
                             : ring_attention_cached(ctx, qkv, shape, cache->part, ring);
  }

  AttentionConfig config_;
  ModelLayout layout_;
  HeadSplit split_;
  Linear qkv_;
  Linear proj_;
};

}  // namespace trireme::nn
