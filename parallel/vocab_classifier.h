// The classifier whose table's rows are divided over tensor ranks (Shoeybi et al., Megatron-LM, 2019): logits stay where
// they are made, ranks exchange three numbers a token.
#pragma once

#include "comm/group.h"
#include "core/op.h"

namespace trireme {

/// As classifier_loss() with the whole table, of which w [n, C] is the rows from first_row on; the same loss on every rank of
/// `tensor`. h [N, C] is whole on each. B: dh is this rank's part of a sum over the ranks, which TensorParallel::enter forms.
/// Collective. Logits exist in chunks; while the ranks exchange the numbers of one, the next one is computed.
Tensor vocab_classifier_loss(Context& ctx, const Tensor& h, Parameter& w, const Tensor& targets, float scale, int64_t vocab,
                             int64_t first_row, Group& tensor);

/// The ranks' columns side by side, for generation: local [B, columns[rank]] f32 -> [B, sum of columns] on every rank.
/// Collective; not differentiable.
Tensor gather_columns(Context& ctx, const Tensor& local, std::span<const int64_t> columns, Group& group);

}  // namespace trireme
