// classifier: the last matrix product with softmax cross-entropy, in chunks of rows; loss and gradient are
// made together, and no [tokens, vocabulary] tensor ever exists.
#pragma once

#include "core/op.h"

namespace trireme {

/// What one run of the classifier reads and makes. [n, V] exists for a chunk of n rows at a time.
struct ClassifierArgs {
  Tensor h, w, targets;                         // [N, C], [V, C], i32 [N]
  int64_t vocab = 0;                            // columns v >= vocab are padding
  float scale = 1.0f;                           // of the loss
  Tensor loss_scale;                            // f32 [1]: dh and dw are times this too; undefined: 1
  bool accumulate_weight = false;               // dw += instead of dw =
  Tensor loss;                                  // f32 [1]
  Tensor dh, dw;                                // of h's type, f32; both undefined: the loss alone
  int64_t max_chunk_bytes = 0;                  // of logits; 0: what suits the device
};
struct ClassifierForward {
  using Fn = void(Context&, ClassifierArgs& args);
};

/// loss = scale * sum over rows n of -log softmax(h w^T)[n, target[n]], as f32 [1]. h [N, C], w [V, C],
/// targets i32 [N]; rows with target -1 count nothing. Columns v >= `vocab` are padding: never a probability.
/// With a tape, dh and dw (times ctx.loss_scale) are computed in forward, when a chunk's logits are at hand:
/// the loss must be the root of the backward pass, whose seed is taken to be 1, and not inside recompute().
/// A target outside [-1, vocab) is a ConfigError that names it; a GPU, which the host does not wait for, gives a loss
/// that is not a number.
Tensor classifier_loss(Context& ctx, const Tensor& h, Parameter& w, const Tensor& targets, float scale,
                       int64_t vocab);

}  // namespace trireme
