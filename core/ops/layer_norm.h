// layer_norm, alone and fused with the residual addition before it (Ba et al., 2016).
#pragma once

#include "core/op.h"

namespace trireme {

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
