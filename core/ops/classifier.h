// classifier: the last matrix product with softmax cross-entropy, in chunks of rows; loss and gradient are made
// together, and no [tokens, vocabulary] tensor ever exists.
#pragma once

#include "core/op.h"

namespace trireme {

/// loss = scale * sum over rows n of -log softmax(h w^T)[n, target[n]], as f32 [1]. h [N, C], w [V, C],
/// targets i32 [N]; rows with target -1 count nothing. Columns v >= `vocab` are padding: never a probability.
/// With a tape, dh and dw (times ctx.loss_scale) are computed in forward, when a chunk's logits are at hand: the
/// loss must be the root of the backward pass, whose seed is taken to be 1.
Tensor classifier_loss(Context& ctx, const Tensor& h, Parameter& w, const Tensor& targets, float scale, int64_t vocab);

}  // namespace trireme
