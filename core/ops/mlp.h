// mlp: two linear layers with gelu between, as one operation, so that gelu and its derivative are made where the
// products' results are at hand.
#pragma once

#include "core/op.h"

namespace trireme {

/// h = x w^T (+ b, when defined), a = gelu(h). x [N, I], w [O, I], h and a [N, O] of x's type. h undefined: not kept.
struct LinearGeluForward {
  using Fn = void(Context&, const Tensor& x, const Tensor& w, const Tensor& b, Tensor& h, Tensor& a);
};
/// dh = (dy w) * gelu'(h), and where db is defined, db = the sum of dh's rows. dy [N, O], w [O, I], h and dh [N, I], db
/// f32 [I]; dh is not h. In one call, since dh's values are at hand; a GPU may round the sums to dh's type.
struct LinearBackwardInputGelu {
  using Fn = void(Context&, const Tensor& dy, const Tensor& w, const Tensor& h, Tensor& dh, Tensor& db);
};

struct MlpParameters {
  Parameter& up_w;    // [H, C]
  Parameter* up_b;    // [H] or null
  Parameter& down_w;  // [O, H]
  Parameter* down_b;  // [O] or null
  bool add_down_b = true;  // else another rank adds it to the sum that y is a part of; its gradient is the same
};

/// y = gelu(x up_w^T + up_b) down_w^T + down_b. x [N, C] -> y [N, O].
/// With h the argument of gelu and a its result:
///   B: dh = (dy down_w) * gelu'(h) ; db = sum of dh over N ; dx = dh up_w
///   W: d down_w += dy^T a, d down_b += sum of dy over N, d up_w += dh^T x, d up_b += db
/// Keeps x, h and a until B; with `recompute_gelu` a is not kept but computed from h again, which costs one pass over
/// it and saves half of the memory.
Tensor mlp(Context& ctx, const Tensor& x, const MlpParameters& parameters, bool recompute_gelu = false);

}  // namespace trireme
