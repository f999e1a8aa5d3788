#include "core/ops/embedding.h"

#include <fmt/format.h>

#include "core/tape.h"

namespace trireme {
namespace {

class EmbeddingOp : public Op {
 public:
  EmbeddingOp(Parameter& w, Parameter* positions, const TokenPositions& at, const EmbeddingPart& part)
      : parameters_{&w}, at_(at), part_(part) {
    if (positions) parameters_.push_back(positions);
  }
  std::string_view name() const override { return "embedding"; }
  std::span<Parameter* const> parameters() const override { return parameters_; }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    const Tensor& tokens = inputs[0];
    saved.tensors = {tokens};
    Tensor y = ctx.empty({tokens.numel(), weight().shape[1]}, weight().data.dtype());
    const bool add = positions() && part_.add_positions;
    ctx.kernel<EmbeddingForward>()(ctx, tokens, weight().data, add ? positions()->data : Tensor(), at_, part_, y);
    return {y};
  }

  Tensors backward_input(Context&, Saved&, Tensors) const override { return {Tensor()}; }  // tokens have none

  void backward_weight(Context& ctx, Saved& saved, std::span<const Tensor> dout) const override {
    const Tensor& tokens = saved.tensors[0];
    for (Parameter* p : parameters_)
      if (!p->begin_accumulate()) ctx.backend->fill_zero(p->grad.raw(), p->grad.bytes(), *ctx.stream);
    ctx.kernel<EmbeddingBackwardTokens>()(ctx, tokens, dout[0], part_, weight().grad);
    if (Parameter* p = positions())
      ctx.kernel<EmbeddingBackwardPositions>()(ctx, dout[0], tokens.dim(1), at_, p->grad);
  }

 private:
  Parameter& weight() const { return *parameters_[0]; }
  Parameter* positions() const { return parameters_.size() > 1 ? parameters_[1] : nullptr; }
  std::vector<Parameter*> parameters_;
  TokenPositions at_;
  EmbeddingPart part_;
};

}  // namespace

Tensor embedding(Context& ctx, const Tensor& tokens, Parameter& w, Parameter* positions, const TokenPositions& at,
                 const EmbeddingPart& part) {
  TRIREME_ASSERT(tokens.rank() == 2 && w.shape.rank() == 2,
                 fmt::format("embedding {}: tokens {}, w {}; [B, T] and [V, C] were wanted", w.name,
                             to_string(tokens.shape()), to_string(w.shape)));
  TRIREME_ASSERT(part.vocab == 0 || part.first_row + w.shape[0] <= part.vocab, "embedding " + w.name + ": rows outside the table");
  TRIREME_ASSERT(!positions || (positions->shape.rank() == 2 && positions->shape[1] == w.shape[1]),
                 fmt::format("embedding {}: positions {} do not fit w {}", w.name,
                             to_string(positions->shape), to_string(w.shape)));
  const int64_t end = at.end(tokens.dim(1));
  if (positions && (at.first < 0 || end > positions->shape[0]))
    throw ConfigError(fmt::format("embedding: positions {} to {} were asked for, the model has {}; shorten the sequence "
                                  "(batch.sequence) or train with a larger model.context",
                                  at.first, end - 1, positions->shape[0]));
  return apply(ctx, std::make_shared<EmbeddingOp>(w, positions, at, part), {tokens})[0];
}

}  // namespace trireme
