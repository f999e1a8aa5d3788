// layer_norm, alone and fused with the residual addition before it (Ba et al., 2016).
#pragma once

#include "core/op.h"

namespace trireme {

/// residual = x + delta ; y = (residual - mean) * rstd * w + b. Undefined `delta`: residual is not written, x
/// is normalised. Undefined `b`: zeros. mean and rstd f32 [N].
struct LayerNormForward {
  using Fn = void(Context&, const Tensor& x, const Tensor& delta, const Tensor& w, const Tensor& b, float eps,
                  Tensor& residual, Tensor& y, Tensor& mean, Tensor& rstd);
};
/// dx = dresidual (zeros when undefined) + what y passes back, and may be dresidual ; dwb = [sum dy * xhat, sum dy], f32 [2, C].
struct LayerNormBackward {
  using Fn = void(Context&, const Tensor& x, const Tensor& w, const Tensor& mean, const Tensor& rstd,
                  const Tensor& dresidual, const Tensor& dy, Tensor& dx, Tensor& dwb);
};

/// y = (x - mean) / sqrt(var + eps) * w + b over the last dim. x [N, C], w [C], b [C] or null.
Tensor layer_norm(Context& ctx, const Tensor& x, Parameter& w, Parameter* b, float eps = 1e-5f);

struct AddNormOutputs {
  Tensor residual;  // x + delta
  Tensor normed;    // layer_norm(x + delta)
};
/// The residual stream's step, in one pass over memory. `delta` undefined: residual is x itself.
AddNormOutputs add_layer_norm(Context& ctx, const Tensor& x, const Tensor& delta, Parameter& w, Parameter* b,
                              float eps = 1e-5f);

}  // namespace trireme
