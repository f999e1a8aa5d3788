// nn::Mlp: down(gelu(up(x))). The hidden width is divided over the tensor ranks.
#pragma once

#include "core/nn/linear.h"
#include "core/ops/mlp.h"
#include "parallel/layers/even_split.h"
#include "parallel/model_layout.h"

namespace trireme::nn {

struct MlpConfig {
  int64_t width = 0;   // C
  int64_t hidden = 0;  // F
  bool bias = true;
  Init init;
  Init down_init;
  bool recompute_gelu = false;  // gelu's result is computed again in backward, not kept
};

class Mlp : public Module {
 public:
  Mlp(Module* parent, std::string name, const MlpConfig& config, const ModelLayout& layout = {})
      : Module(parent, std::move(name)),
        config_(config),
        tensor_(layout.tensor),
        up_(this, "up", config.width, config.hidden, config.bias, config.init, hidden_placement(0)),
        down_(this, "down", config.hidden, config.width, config.bias, config.down_init, hidden_placement(1)) {
  }

  /// x [N, C] -> this rank's part of the sum [N, C] over the tensor ranks (see TensorParallel::leave).
  Tensor operator()(Context& ctx, const Tensor& x) {
    return mlp(ctx, x, {up_.weight(), up_.bias(), down_.weight(), down_.bias(), tensor_.is_first()},
               config_.recompute_gelu);
  }

 private:
  Placement hidden_placement(int dim) const {
    if (tensor_.size() == 1) return {};
    const Part part = split_in_blocks(config_.hidden, tensor_.size(), tensor_.rank());
    return Placement::split(dim, config_.hidden, part.begin, part.end);
  }

  MlpConfig config_;
  TensorParallel tensor_;
  Linear up_;
  Linear down_;
};

}  // namespace trireme::nn
