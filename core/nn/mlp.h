// nn::Mlp: down(gelu(up(x))).
#pragma once

#include "core/nn/linear.h"
#include "core/ops/gelu.h"

namespace trireme::nn {

class Mlp : public Module {
 public:
  Mlp(Module* parent, std::string name, int64_t width, int64_t hidden, bool bias, Init init, Init down_init)
      : Module(parent, std::move(name)),
        up_(this, "up", width, hidden, bias, init),
        down_(this, "down", hidden, width, bias, down_init) {}

  /// x [N, C] -> [N, C]
  Tensor operator()(Context& ctx, const Tensor& x) { return down_(ctx, gelu(ctx, up_(ctx, x))); }

 private:
  Linear up_;
  Linear down_;
};

}  // namespace trireme::nn
