// Softmax and cross-entropy of rows whose columns lie on several ranks: each sums up its own columns, and with the sums of
// all it knows the row's loss and its own part of the gradient.
#pragma once

#include "core/op.h"

namespace trireme {

/// The columns [first_column, first_column + m) of rows of `vocab` logits; what lies behind `vocab` is padding.
struct SoftmaxPart {
  int64_t first_column = 0;
  int64_t vocab = 0;
  float scale = 1.0f;  // of the gradient
  Tensor loss_scale;   // f32 [1]: the gradient is times this too; undefined: 1
};

/// What a rank tells of a row's columns.
enum SoftmaxSum : int64_t {
  kSoftmaxMax,     // the largest logit; the least float where there is none
  kSoftmaxSum,     // of e^(logit - max)
  kSoftmaxTarget,  // the target's logit where it is one of these columns, else 0
  kSoftmaxSums
};

/// sums f32 [n, kSoftmaxSums] of logits [n, m]. targets i32 [n]; -1 is none. On the host a target that is no token is a
/// ConfigError; on a GPU it makes the loss not a number.
struct SoftmaxPartSums {
  using Fn = void(Context&, const Tensor& logits, const Tensor& targets, const SoftmaxPart& part, Tensor& sums);
};
/// From the sums of all ranks f32 [R, n, kSoftmaxSums]: losses f32 [n], -log softmax[target] (0 where the target is -1).
/// Where `gradient`, logits = scale * loss_scale * (softmax - onehot(target)) of these columns, 0 in padding.
struct SoftmaxPartGradient {
  using Fn = void(Context&, Tensor& logits, const Tensor& targets, const Tensor& sums_of_ranks, const SoftmaxPart& part, bool gradient,
                  Tensor& losses);
};
/// sum f32 [1] = scale * the sum of `values` f32 [n], always in the same order.
struct ScaledSum {
  using Fn = void(Context&, const Tensor& values, float scale, Tensor& sum);
};

}  // namespace trireme
