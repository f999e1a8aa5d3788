// vocab_classifier: the last matrix product with softmax cross-entropy where each tensor rank has a part of
// the vocabulary's rows (Shoeybi et al., Megatron-LM, 2019). Logits stay on their rank.
#pragma once

#include "comm/group.h"
#include "core/op.h"

namespace trireme {

/// classifier_loss() of the whole table, f32 [1], the same bits on all ranks of `tensor`. Collective over
/// them, with one all-gather a chunk of rows. h [N, C], targets i32 [N] (-1 counts nothing), scale and vocab
/// are the same on all ranks; w_local [n, C] holds the rows of tokens [first_row, first_row + n), of which
/// those >= `vocab` are padding. n may differ, and all of a rank's rows may be padding; together the ranks
/// have all tokens below `vocab`.
///
/// With a tape, the gradients are made in forward as classifier_loss() makes them: w_local's own, and that of
/// h as a PARTIAL sum over this rank's vocabulary, which the caller sums over the ranks. `max_chunk_rows` 0:
/// what suits the device.
Tensor vocab_classifier_loss(Context& ctx, const Tensor& h, Parameter& w_local, const Tensor& targets,
                             float scale, int64_t vocab, int64_t first_row, Group& tensor,
                             int64_t max_chunk_rows = 0);

}  // namespace trireme
