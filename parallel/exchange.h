// Exchanges of activations between ranks as operations on the tape: what forward sends one way, backward
// sends the other way. The sum of gradients is under way while the weights' gradients of the layer before it
// are computed.
#pragma once

#include "comm/group.h"
#include "core/op.h"

namespace trireme {

/// x itself. B: the sum of the ranks' gradients. Before layers that each compute a part of the result from
/// the same x.
Tensor copy_to_ranks(Context& ctx, const Tensor& x, Group& group);
/// The sum of the ranks' x [n, C]. B: the gradient itself.
Tensor sum_of_ranks(Context& ctx, const Tensor& x, Group& group);
/// The rows of all ranks one after the other: x [n, C] -> [size * n, C]. B: the rank()-th part of the
/// gradients' sum.
Tensor gather_rows(Context& ctx, const Tensor& x, Group& group);
/// The rank()-th part of the sum of the ranks' x: [size * n, C] -> [n, C]. B: the gradients of all ranks.
Tensor scatter_sum(Context& ctx, const Tensor& x, Group& group);

}  // namespace trireme
