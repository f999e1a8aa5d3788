// nn::Attention: multi-head self-attention with one product for q, k and v (grouped-query when kv_heads < heads).
#pragma once

#include "core/nn/linear.h"
#include "core/ops/attention.h"

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
  Attention(Module* parent, std::string name, const AttentionConfig& config)
      : Module(parent, std::move(name)),
        config_(config),
        qkv_(this, "qkv", config.width, (config.heads + 2 * config.kv_heads) * head_dim(), config.bias, config.init),
        proj_(this, "proj", config.width, config.width, config.bias, config.proj_init) {}

  /// x [B*T, C] -> [B*T, C]. With `cache`, the new tokens attend to the cached ones too and are added to it.
  Tensor operator()(Context& ctx, const Tensor& x, int64_t batch, KvCache* cache = nullptr) {
    const AttentionShape shape{batch, x.dim(0) / batch, config_.heads, config_.kv_heads, head_dim(), config_.causal};
    const Tensor qkv = qkv_(ctx, x);
    return proj_(ctx, cache ? attention_cached(ctx, qkv, shape, *cache) : attention(ctx, qkv, shape));
  }
  int64_t head_dim() const { return config_.width / config_.heads; }

 private:
  AttentionConfig config_;
  Linear qkv_;
  Linear proj_;
};

}  // namespace trireme::nn
