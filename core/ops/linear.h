// linear: y = x w^T + b, the matrix product that most of the time is spent in.
#pragma once

#include "core/op.h"

namespace trireme {

/// y = x w^T (+ b, when defined). y is of x's type, or f32.
struct LinearForward {
  using Fn = void(Context&, const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y);
};
/// dx = dy w
struct LinearBackwardInput {
  using Fn = void(Context&, const Tensor& dy, const Tensor& w, Tensor& dx);
};
/// dw = dy^T x, or dw += dy^T x when `accumulate_w`. Where db is defined, db = the sum of dy's rows, or db += when
/// `accumulate_b`. dw and db f32. In one call, since both read all of dy.
struct LinearBackwardWeight {
  using Fn = void(Context&, const Tensor& x, const Tensor& dy, bool accumulate_w, Tensor& dw, bool accumulate_b, Tensor& db);
};

/// y = x w^T + b. x [N, I], w [O, I], b [O] or null -> y [N, O].
/// B: dx = dy w.  W: dw += dy^T x, db += sum of dy over N.
/// Without `add_bias` y lacks b, which another rank adds to a sum that y is a part of; b's gradient is the same.
Tensor linear(Context& ctx, const Tensor& x, Parameter& w, Parameter* b, bool add_bias = true);

/// The kernel above on the gradients of w and b (or null), as backward_weight of operations with such parameters does.
void add_linear_gradients(Context& ctx, const Tensor& x, const Tensor& dy, Parameter& w, Parameter* b);

}  // namespace trireme
