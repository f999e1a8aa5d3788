// TensorParallel: how the layers of a model are divided over the tensor ranks. Products whose columns are
// divided are followed by products whose rows are (Shoeybi et al., Megatron-LM, 2019); with `sequence` the
// rows of activations are divided between those pairs (Korthikanti et al., 2022). One rank is the special
// case that exchanges nothing.
#pragma once

#include "parallel/exchange.h"

namespace trireme {

class TensorParallel {
 public:
  TensorParallel() = default;  // one rank
  /// `group` outlives the layers. With `sequence`, rows are divided where no product needs them all.
  TensorParallel(Group& group, bool sequence)
      : group_(group.size() > 1 ? &group : nullptr), sequence_(sequence && group_) {}

  int64_t size() const { return group_ ? group_->size() : 1; }
  int64_t rank() const { return group_ ? group_->rank() : 0; }
  bool is_first() const { return rank() == 0; }
  bool sequence() const { return sequence_; }
  Group& group() const { return *group_; }  // of more than one rank

  /// What products divided by columns take: x [rows here, C] -> [all rows, C].
  Exchange begin_enter(Context& ctx, const Tensor& x) const;
  Tensor enter(Context& ctx, const Tensor& x) const { return begin_enter(ctx, x).finish(ctx); }
  /// The sum of what products divided by rows give: y [all rows, C] -> [rows here, C].
  Exchange begin_leave(Context& ctx, const Tensor& y) const;
  Tensor leave(Context& ctx, const Tensor& y) const { return begin_leave(ctx, y).finish(ctx); }

  /// How many of `rows` rows are here between enter() and leave().
  int64_t rows_here(int64_t rows) const { return sequence_ ? rows / size() : rows; }

 private:
  Group* group_ = nullptr;
  bool sequence_ = false;
};

}  // namespace trireme
