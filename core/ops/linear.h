// linear: y = x w^T + b, the matrix product that most of the time is spent in.
#pragma once

#include "core/op.h"

namespace trireme {

/// y = x w^T + b. x [N, I], w [O, I], b [O] or null -> y [N, O].
/// B: dx = dy w.  W: dw += dy^T x, db += sum of dy over N.
Tensor linear(Context& ctx, const Tensor& x, Parameter& w, Parameter* b);

}  // namespace trireme
