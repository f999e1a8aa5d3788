// nn::Block: one pre-norm transformer block on a residual stream whose last addition is still pending, so
// that each addition is fused with the norm that follows it.
#pragma once

#include <functional>
#include <vector>

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

/// Work on a part of a micro-batch, cut where an exchange between tensor ranks was begun: what comes next in the list
/// finishes it. So two lists run in turns hide each other's exchanges (Wang et al., Domino, 2024).
using Slots = std::vector<std::function<void()>>;
/// One after the other.
void run_slots(const Slots& slots);
/// In turns, `a` one slot ahead of `b`: those that come between a slot and the next one of its list hide what it began.
void run_in_turns(const Slots& a, const Slots& b);

/// Samples on their way through a model's slots.
struct Travel {
  Context ctx;
  int64_t batch = 0;  // samples
  Residual stream{};
  Exchange delta{};  // of the residual stream, where it is still to be finished
  std::function<Tensor(const Tensor&)> after_delta{};  // what comes after it
  Exchange exchange{};       // within a block
  Tensor qkv{};              // likewise
  LayerCache* cache = nullptr;  // of the block, in generation

  /// The residual stream with the delta that it was waiting for.
  Residual& settle();
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

  /// What is to be done with `travel`, which outlives the slots. The stream is settled by what follows them.
  void add_slots(Slots& slots, Travel& travel);

  /// `batch` samples of equally many tokens.
  Residual operator()(Context& ctx, const Residual& in, int64_t batch, LayerCache* cache = nullptr);
  int64_t kv_heads() const { return attn_.kv_heads(); }  // of this rank

 private:
  void add_parts(Slots& slots, Travel& travel);
  Residual forward(Context& ctx, const Residual& in, int64_t batch, LayerCache* cache);

  BlockConfig config_;
  TensorParallel tensor_;
  LayerNorm ln_1_;
  Attention attn_;
  LayerNorm ln_2_;
  Mlp mlp_;
};

}  // namespace trireme::nn
