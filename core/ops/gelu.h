// gelu: GPT-2's tanh approximation, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
// (Hendrycks & Gimpel, 2016).
#pragma once

#include "core/op.h"

namespace trireme {

/// y may be x.
struct GeluForward {
  using Fn = void(Context&, const Tensor& x, Tensor& y);
};
/// dx = dy * gelu'(x). dx may be dy.
struct GeluBackward {
  using Fn = void(Context&, const Tensor& x, const Tensor& dy, Tensor& dx);
};

/// The same shape and type as x.
Tensor gelu(Context& ctx, const Tensor& x);

}  // namespace trireme
