#include "parallel/tensor_parallel.h"

#include "parallel/exchange.h"

namespace trireme {

Tensor TensorParallel::enter(Context& ctx, const Tensor& x) const {
  if (!group_) return x;
  return sequence_ ? gather_rows(ctx, x, *group_) : copy_to_ranks(ctx, x, *group_);
}

Tensor TensorParallel::leave(Context& ctx, const Tensor& y) const {
  if (!group_) return y;
  return sequence_ ? scatter_sum(ctx, y, *group_) : sum_of_ranks(ctx, y, *group_);
}

}  // namespace trireme
