// nn::LayerNorm, with the residual addition before it.
#pragma once

#include "core/nn/module.h"
#include "core/ops/layer_norm.h"

namespace trireme::nn {

class LayerNorm : public Module {
 public:
  LayerNorm(Module* parent, std::string name, int64_t width, bool bias)
      : Module(parent, std::move(name)),
        weight_(add_parameter("weight", {width}, Init::ones())),
        bias_(bias ? &add_parameter("bias", {width}, Init::zeros()) : nullptr) {}

  /// x [N, C] -> [N, C]
  Tensor operator()(Context& ctx, const Tensor& x) { return layer_norm(ctx, x, weight_, bias_); }
  /// {x + delta, norm(x + delta)}; `delta` may be undefined.
  AddNormOutputs operator()(Context& ctx, const Tensor& x, const Tensor& delta) {
    return add_layer_norm(ctx, x, delta, weight_, bias_);
  }

 private:
  Parameter& weight_;
  Parameter* bias_;
};

}  // namespace trireme::nn
