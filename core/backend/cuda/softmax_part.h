// Softmax, loss and gradient of rows of logits of a part of the vocabulary: two passes, between which the
// ranks exchange what the first one found.
#pragma once

#include "core/ops/classifier_part.h"

namespace trireme::cuda {

/// chunk.sums from chunk.logits.
void softmax_part_sums(Context& ctx, const ClassifierPart& part, const ClassifierPartChunk& chunk);
/// The chunk's losses from chunk.all_sums and, where part.dh is defined, the gradient in place of
/// chunk.logits.
void softmax_part_gradient(Context& ctx, const ClassifierPart& part, const ClassifierPartChunk& chunk);

}  // namespace trireme::cuda
