// nn::Linear: y = x w^T + b.
#pragma once

#include "core/nn/module.h"
#include "core/ops/linear.h"

namespace trireme::nn {

class Linear : public Module {
 public:
  /// weight [out, in], bias [out] unless `bias` is false. With a placement, what it says of the weight is here, and of
  /// the bias too when its dim is 0.
  Linear(Module* parent, std::string name, int64_t in, int64_t out, bool bias, Init init, const Placement& placement = {})
      : Module(parent, std::move(name)),
        weight_(add_parameter("weight", {out, in}, init, placement)),
        bias_(bias ? &add_parameter("bias", {out}, Init::zeros(), placement.dim == 0 ? placement : Placement()) : nullptr) {}

  /// x [N, in] -> [N, out]; see linear() for `add_bias`.
  Tensor operator()(Context& ctx, const Tensor& x, bool add_bias = true) { return linear(ctx, x, weight_, bias_, add_bias); }
  Parameter& weight() const { return weight_; }
  Parameter* bias() const { return bias_; }  // or null

 private:
  Parameter& weight_;
  Parameter* bias_;
};

}  // namespace trireme::nn
