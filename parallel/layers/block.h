// nn::Block: one pre-norm transformer block on a residual stream whose last addition is still pending, so
// that each addition is fused with the norm that follows it.
#pragma once

#include "core/nn/layer_norm.h"
#include "parallel/layers/attention.h"
#include "parallel/layers/mlp.h"

namespace trireme::nn {

/// The residual stream is x + delta; `delta` may be undefined (nothing pending). N rows: B*T, or this tensor
/// rank's part of them.
struct Residual {
  Tensor x;      // [N, C]
  Tensor delta;  // [N, C]
};

enum class Recompute : uint8_t { none, selective, full };  // selective: the MLP's gelu; full: the block

struct BlockConfig {
  AttentionConfig attention;
  int64_t hidden = 0;  // F, inner width of the MLP
  float dropout = 0.0f;
  Recompute recompute = Recompute::none;
};

class Block : public Module {
 public:
  Block(Module* parent, std::string name, const BlockConfig& config, const ModelLayout& layout = {});

  /// `batch` samples of equally many tokens.
  Residual operator()(Context& ctx, const Residual& in, int64_t batch, KvCache* cache = nullptr);
  int64_t kv_heads() const { return attn_.kv_heads(); }  // of this rank

 private:
  Residual forward(Context& ctx, const Residual& in, int64_t batch, KvCache* cache);

  BlockConfig config_;
  TensorParallel tensor_;
  LayerNorm ln_1_;
  Attention attn_;
  LayerNorm ln_2_;
  Mlp mlp_;
};

}  // namespace trireme::nn
