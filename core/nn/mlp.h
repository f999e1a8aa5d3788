// nn::Mlp: down(gelu(up(x))).
#pragma once

#include "core/nn/linear.h"
#include "core/ops/mlp.h"

namespace trireme::nn {

class Mlp : public Module {
 public:
  /// `recompute_gelu`: gelu's result is computed again in backward, not kept.
  Mlp(Module* parent, std::string name, int64_t width, int64_t hidden, bool bias, Init init, Init down_init,
      bool recompute_gelu = false)
      : Module(parent, std::move(name)),
        up_(this, "up", width, hidden, bias, init),
        down_(this, "down", hidden, width, bias, down_init),
        recompute_gelu_(recompute_gelu) {}

  /// x [N, C] -> [N, C]
  Tensor operator()(Context& ctx, const Tensor& x) {
    return mlp(ctx, x, {up_.weight(), up_.bias(), down_.weight(), down_.bias()}, recompute_gelu_);
  }

 private:
  Linear up_;
  Linear down_;
  bool recompute_gelu_;
};

}  // namespace trireme::nn
