// Exchanges of activations between ranks as operations on the tape: what forward sends one way, backward
// sends the other way. An exchange is begun and finished by an operation each; in backward they change
// places. What is computed between the two, in either pass, hides it; of an exchange that is finished at
// once, backward is hidden by the weights' gradients of the layer after it.
#pragma once

#include "comm/group.h"
#include "core/op.h"

namespace trireme {

struct ExchangeInFlight;

/// An exchange that is under way.
class Exchange {
 public:
  Exchange() = default;
  /// What is done: nothing was to be exchanged.
  explicit Exchange(Tensor done) : value_(std::move(done)) {}
  /// What was begun, by the functions below.
  Exchange(Tensor begun, std::shared_ptr<ExchangeInFlight> in_flight)
      : value_(std::move(begun)), in_flight_(std::move(in_flight)) {}

  bool defined() const { return value_.defined(); }
  /// Its result; once.
  Tensor finish(Context& ctx);

 private:
  Tensor value_;
  std::shared_ptr<ExchangeInFlight> in_flight_;  // null: done
};

/// x itself. B: the sum of the ranks' gradients. Before layers that each compute a part of the result from
/// the same x.
Exchange begin_copy_to_ranks(Context& ctx, const Tensor& x, Group& group);
/// The sum of the ranks' x [n, C]. B: the gradient itself.
Exchange begin_sum_of_ranks(Context& ctx, const Tensor& x, Group& group);
/// The rows of all ranks one after the other: x [n, C] -> [size * n, C]. B: the rank()-th part of the
/// gradients' sum.
Exchange begin_gather_rows(Context& ctx, const Tensor& x, Group& group);
/// The rank()-th part of the sum of the ranks' x: [size * n, C] -> [n, C]. B: the gradients of all ranks.
Exchange begin_scatter_sum(Context& ctx, const Tensor& x, Group& group);

// Begun and finished.
Tensor copy_to_ranks(Context& ctx, const Tensor& x, Group& group);
Tensor sum_of_ranks(Context& ctx, const Tensor& x, Group& group);
Tensor gather_rows(Context& ctx, const Tensor& x, Group& group);
Tensor scatter_sum(Context& ctx, const Tensor& x, Group& group);

}  // namespace trireme
