// mlp: two linear layers with gelu between, as one operation, so that gelu and its derivative are made where the
// products' results are at hand.
#pragma once

#include "core/op.h"

namespace trireme {

/// h = x w^T (+ b, when defined), a = gelu(h). x [N, I], w [O, I], h and a [N, O] of x's type. h undefined: not kept.
struct LinearGeluForward {
  using Fn = void(Context&, const Tensor& x, const Tensor& w, const Tensor& b, Tensor& h, Tensor& a);
};
/// dh = (dy w) * gelu'(h). dy [N, O], w [O, I], h and dh [N, I]; dh is not h.
struct LinearBackwardInputGelu {
  using Fn = void(Context&, const Tensor& dy, const Tensor& w, const Tensor& h, Tensor& dh);
};

struct MlpParameters {
  Parameter& up_w;    // [H, C]
  Parameter* up_b;    // [H] or null
  Parameter& down_w;  // [O, H]
  Parameter* down_b;  // [O] or null
};

/// y = gelu(x up_w^T + up_b) down_w^T + down_b. x [N, C] -> y [N, O].
/// With h the argument of gelu and a its result:
///   B: dh = (dy down_w) * gelu'(h) ; dx = dh up_w
///   W: d down_w += dy^T a, d down_b += sum of dy over N, d up_w += dh^T x, d up_b += sum of dh over N
/// Keeps x, h and a until B; with `recompute_gelu` a is not kept but computed from h again, which costs one pass over
/// it and saves half of the memory.
Tensor mlp(Context& ctx, const Tensor& x, const MlpParameters& parameters, bool recompute_gelu = false);

}  // namespace trireme
