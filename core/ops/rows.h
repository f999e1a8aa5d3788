// split_rows and join_rows: two runs of rows apart, and together again.
#pragma once

#include <array>

#include "core/op.h"

namespace trireme {

/// x [N, C] -> its first `rows` rows, and the others: views, no copies. B: copies both gradients into one.
std::array<Tensor, 2> split_rows(Context& ctx, const Tensor& x, int64_t rows);

/// a [N, C] above b [M, C], of one type -> [N + M, C]. B: views of the gradient.
Tensor join_rows(Context& ctx, const Tensor& a, const Tensor& b);

}  // namespace trireme
