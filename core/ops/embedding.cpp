#include "core/ops/embedding.h"

#include <fmt/format.h>

#include "core/tape.h"

namespace trireme {
namespace {

class EmbeddingOp : public Op {
 public:
  EmbeddingOp(Parameter& w, Parameter* positions, int64_t first_position)
      : parameters_{&w}, first_position_(first_position) {
    if (positions) parameters_.push_back(positions);
  }
  std::string_view name() const override { return "embedding"; }
  std::span<Parameter* const> parameters() const override { return parameters_; }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    const Tensor& tokens = inputs[0];
    saved.tensors = {tokens};
    Tensor y = ctx.empty({tokens.numel(), weight().shape[1]}, weight().data.dtype());
    ctx.kernel<EmbeddingForward>()(ctx, tokens, weight().data, positions() ? positions()->data : Tensor(),
                                   first_position_, y);
    return {y};
  }

  Tensors backward_input(Context&, Saved&, Tensors) const override { return {Tensor()}; }  // tokens have none

  void backward_weight(Context& ctx, Saved& saved, std::span<const Tensor> dout) const override {
    const Tensor& tokens = saved.tensors[0];
    for (Parameter* p : parameters_)
      if (!p->begin_accumulate()) ctx.backend->fill_zero(p->grad.raw(), p->grad.bytes(), *ctx.stream);
    ctx.kernel<EmbeddingBackwardTokens>()(ctx, tokens, dout[0], weight().grad);
    if (Parameter* p = positions())
      ctx.kernel<EmbeddingBackwardPositions>()(ctx, dout[0], tokens.dim(1), first_position_, p->grad);
  }

 private:
  Parameter& weight() const { return *parameters_[0]; }
  Parameter* positions() const { return parameters_.size() > 1 ? parameters_[1] : nullptr; }
  std::vector<Parameter*> parameters_;
  int64_t first_position_;
};

}  // namespace

Tensor embedding(Context& ctx, const Tensor& tokens, Parameter& w, Parameter* positions,
                 int64_t first_position) {
  TRIREME_ASSERT(tokens.rank() == 2 && w.shape.rank() == 2,
                 fmt::format("embedding {}: tokens {}, w {}; [B, T] and [V, C] were wanted", w.name,
                             to_string(tokens.shape()), to_string(w.shape)));
  TRIREME_ASSERT(!positions || (positions->shape.rank() == 2 && positions->shape[1] == w.shape[1]),
                 fmt::format("embedding {}: positions {} do not fit w {}", w.name,
                             to_string(positions->shape), to_string(w.shape)));
  if (positions && (first_position < 0 || first_position + tokens.dim(1) > positions->shape[0]))
    throw ConfigError(
        fmt::format("embedding: positions {} to {} were asked for, the model has {}; shorten the sequence "
                    "(batch.sequence) or train "
                    "with a larger model.context",
                    first_position, first_position + tokens.dim(1) - 1, positions->shape[0]));
  return apply(ctx, std::make_shared<EmbeddingOp>(w, positions, first_position), {tokens})[0];
}

}  // namespace trireme
