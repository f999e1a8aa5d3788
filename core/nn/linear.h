// nn::Linear: y = x w^T + b.
#pragma once

#include "core/nn/module.h"
#include "core/ops/linear.h"

namespace trireme::nn {

class Linear : public Module {
 public:
  /// weight [out, in], bias [out] unless `bias` is false.
  Linear(Module* parent, std::string name, int64_t in, int64_t out, bool bias, Init init)
      : Module(parent, std::move(name)),
        weight_(add_parameter("weight", {out, in}, init)),
        bias_(bias ? &add_parameter("bias", {out}, Init::zeros()) : nullptr) {}

  /// x [N, in] -> [N, out]
  Tensor operator()(Context& ctx, const Tensor& x) { return linear(ctx, x, weight_, bias_); }
  Parameter& weight() { return weight_; }
  Parameter* bias() { return bias_; }  // or null

 private:
  Parameter& weight_;
  Parameter* bias_;
};

}  // namespace trireme::nn
