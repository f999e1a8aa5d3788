#include "parallel/tensor_parallel.h"

namespace trireme {

Exchange TensorParallel::begin_enter(Context& ctx, const Tensor& x) const {
  if (!group_) return Exchange(x);
  return sequence_ ? begin_gather_rows(ctx, x, *group_) : begin_copy_to_ranks(ctx, x, *group_);
}

Exchange TensorParallel::begin_leave(Context& ctx, const Tensor& y) const {
  if (!group_) return Exchange(y);
  return sequence_ ? begin_scatter_sum(ctx, y, *group_) : begin_sum_of_ranks(ctx, y, *group_);
}

}  // namespace trireme
