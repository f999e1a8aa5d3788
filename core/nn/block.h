// nn::Block: one pre-norm transformer block on a residual stream whose last addition is still pending, so that
// each addition is fused with the norm that follows it.
#pragma once

#include "core/nn/attention.h"
#include "core/nn/layer_norm.h"
#include "core/nn/mlp.h"

namespace trireme::nn {

/// The residual stream is x + delta; `delta` may be undefined (nothing pending).
struct Residual {
  Tensor x;      // [B*T, C]
  Tensor delta;  // [B*T, C]
};

enum class Recompute : uint8_t { none, selective, full };  // selective: the MLP's gelu; full: the block

struct BlockConfig {
  AttentionConfig attention;
  int64_t hidden = 0;  // inner width of the MLP
  float dropout = 0.0f;
  Recompute recompute = Recompute::none;
};

class Block : public Module {
 public:
  Block(Module* parent, std::string name, const BlockConfig& config);

  /// `batch` samples of x.dim(0) / batch tokens each.
  Residual operator()(Context& ctx, const Residual& in, int64_t batch, KvCache* cache = nullptr);

 private:
  Residual forward(Context& ctx, const Residual& in, int64_t batch, KvCache* cache);

  BlockConfig config_;
  LayerNorm ln_1_;
  Attention attn_;
  LayerNorm ln_2_;
  Mlp mlp_;
};

}  // namespace trireme::nn
