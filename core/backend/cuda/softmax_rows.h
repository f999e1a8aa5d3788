// Softmax, loss and gradient of rows of logits, in place: what the classifier does between its products.
#pragma once

#include "core/context.h"

namespace trireme::cuda {

struct SoftmaxRows {
  Tensor logits;            // [n, V]
  const int32_t* targets;   // [n], on the device
  float* losses;            // [n], on the device: -log softmax[target], 0 where the target is -1
  int64_t vocab;            // columns from there on are padding: never a probability, their gradient is 0
  bool gradient;            // logits = scale * loss_scale * (softmax - onehot(target))
  float scale;
  const float* loss_scale;  // on the device; null: 1
};
void softmax_rows(Context& ctx, const SoftmaxRows& args);

/// The same, where the rows are long, of 16-bit elements, and fit twice into shared memory. Otherwise false, and nothing
/// is done. softmax_rows() asks it first.
bool softmax_long_rows(Context& ctx, const SoftmaxRows& args);

/// sum [1] = scale * the sum of `values` [n], always in the same order.
void scaled_sum(Context& ctx, const Tensor& values, float scale, Tensor& sum);

}  // namespace trireme::cuda
