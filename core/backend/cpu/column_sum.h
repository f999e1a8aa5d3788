// The sum of a matrix's rows, which is the gradient of a bias.
#pragma once

#include "core/context.h"

namespace trireme::cpu {

/// sums [W] = the sum of x's rows, or sums += when `accumulate`. x [N, W], sums f32. Any number of threads gives the
/// same bits.
void column_sum(Context& ctx, const Tensor& x, bool accumulate, Tensor& sums);

}  // namespace trireme::cpu
