// gelu: GPT-2's tanh approximation, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks & Gimpel, 2016).
#pragma once

#include "core/op.h"

namespace trireme {

Tensor gelu(Context& ctx, const Tensor& x);

}  // namespace trireme
