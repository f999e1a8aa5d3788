#include "core/ops/embedding.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/tape.h"

namespace trireme {
namespace {

class EmbeddingOp : public Op {
 public:
  EmbeddingOp(Parameter& w, Parameter* positions, TokenPositions at, TableRows rows, bool add_positions)
      : parameters_{&w}, at_(at), rows_(rows), add_positions_(add_positions) {
    if (positions) parameters_.push_back(positions);
  }
  std::string_view name() const override { return "embedding"; }
  std::span<Parameter* const> parameters() const override { return parameters_; }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    const Tensor& tokens = inputs[0];
    saved.tensors = {tokens};
    Tensor y = ctx.empty({tokens.numel(), weight().shape[1]}, weight().data.dtype());
    const Tensor added = positions() && add_positions_ ? positions()->data : Tensor();
    ctx.kernel<EmbeddingForward>()(ctx, tokens, weight().data, rows_, added, at_, y);
    return {y};
  }

  Tensors backward_input(Context&, Saved&, Tensors) const override { return {Tensor()}; }  // tokens have none

  void backward_weight(Context& ctx, Saved& saved, std::span<const Tensor> dout) const override {
    const Tensor& tokens = saved.tensors[0];
    for (Parameter* p : parameters_)
      if (!p->begin_accumulate()) ctx.backend->fill_zero(p->grad.raw(), p->grad.bytes(), *ctx.stream);
    ctx.kernel<EmbeddingBackwardTokens>()(ctx, tokens, dout[0], rows_, weight().grad);
    if (Parameter* p = positions())
      ctx.kernel<EmbeddingBackwardPositions>()(ctx, dout[0], tokens.dim(1), at_, p->grad);
  }

 private:
  Parameter& weight() const { return *parameters_[0]; }
  Parameter* positions() const { return parameters_.size() > 1 ? parameters_[1] : nullptr; }
  std::vector<Parameter*> parameters_;
  TokenPositions at_;
  TableRows rows_;
  bool add_positions_;
};

void check_run(int64_t begin, int64_t end, int64_t positions) {
  if (begin >= 0 && end <= positions) return;
  throw ConfigError(
      fmt::format("embedding: positions {} to {} were asked for, the model has {}; shorten the sequence "
                  "(batch.sequence) or train with a larger model.context",
                  begin, end - 1, positions));
}

/// Positions of [0, length) tokens lie in the table, and no two of them at one place.
void check_positions(TokenPositions at, int64_t length, int64_t positions) {
  const int64_t in_first = std::clamp<int64_t>(at.half, 0, length), in_second = length - in_first;
  if (in_first > 0) check_run(at.first, at.first + in_first, positions);
  if (in_second == 0) return;
  const int64_t second = at.at(in_first);
  check_run(second, second + in_second, positions);
  TRIREME_ASSERT(in_first == 0 || second >= at.first + in_first || second + in_second <= at.first,
                 fmt::format("embedding: {} tokens from {} and {} from {} overlap", in_first, at.first,
                             in_second, second));
}

}  // namespace

Tensor embedding(Context& ctx, const Tensor& tokens, Parameter& w, Parameter* positions, TokenPositions at,
                 TableRows rows, bool add_positions) {
  TRIREME_ASSERT(tokens.rank() == 2 && w.shape.rank() == 2,
                 fmt::format("embedding {}: tokens {}, w {}; [B, T] and [V, C] were wanted", w.name,
                             to_string(tokens.shape()), to_string(w.shape)));
  TRIREME_ASSERT(rows.first >= 0 && (rows.is_part() || rows.first == 0),
                 fmt::format("embedding {}: rows from {} of a table of {}", w.name, rows.first, rows.vocab));
  TRIREME_ASSERT(!positions || (positions->shape.rank() == 2 && positions->shape[1] == w.shape[1]),
                 fmt::format("embedding {}: positions {} do not fit w {}", w.name,
                             to_string(positions->shape), to_string(w.shape)));
  if (positions) check_positions(at, tokens.dim(1), positions->shape[0]);
  return apply(ctx, std::make_shared<EmbeddingOp>(w, positions, at, rows, add_positions), {tokens})[0];
}

}  // namespace trireme
