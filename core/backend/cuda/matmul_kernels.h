// The own kernels around the products of matmul.h: what cuBLASLt can't fuse or do.
#pragma once

#include "core/context.h"

namespace trireme::cuda {

struct Product;

/// sums [W] = the sum of x's rows, or sums += when `accumulate`. x [N, W], sums f32. Always in the same order.
void column_sum(Context& ctx, const Tensor& x, bool accumulate, Tensor& sums);
/// y += bias for each row. y [N, W], bias [W].
void add_bias(Context& ctx, const Tensor& bias, Tensor& y);
/// `product` without its fusion, for what cuBLASLt has no algorithm for: slow.
void plain_product(Context& ctx, Product& product);

}  // namespace trireme::cuda
