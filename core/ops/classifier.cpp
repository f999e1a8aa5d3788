#include "core/ops/classifier.h"

#include <fmt/format.h>

#include "core/tape.h"

namespace trireme {
namespace {

/// Both gradients are made in forward, so B hands dh over and W has nothing left to do.
class ClassifierOp : public Op {
 public:
  ClassifierOp(Parameter& w, float scale, int64_t vocab) : parameter_(&w), scale_(scale), vocab_(vocab) {}
  std::string_view name() const override { return "classifier"; }
  std::span<Parameter* const> parameters() const override { return {&parameter_, 1}; }
  OpFlop flop(std::span<const Tensor> inputs) const override {
    return {6.0 * static_cast<double>(inputs[0].dim(0) * parameter_->shape.numel()), 0.0, 0.0};
  }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    ClassifierArgs args;
    args.h = inputs[0].detach();
    args.w = parameter_->data;
    args.targets = inputs[1];
    args.vocab = vocab_;
    args.scale = scale_;
    args.loss = ctx.empty({1});
    if (ctx.tape) {
      args.loss_scale = ctx.loss_scale;
      args.dh = ctx.empty(inputs[0].shape(), inputs[0].dtype());
      args.dw = parameter_->grad;
      args.accumulate_weight = parameter_->begin_accumulate();
      saved.tensors = {args.dh};
    }
    ctx.kernel<ClassifierForward>()(ctx, args);
    return {args.loss};
  }

  Tensors backward_input(Context&, Saved& saved, Tensors) const override {
    return {std::move(saved.tensors[0]), Tensor()};
  }

 private:
  Parameter* parameter_;
  float scale_;
  int64_t vocab_;
};

}  // namespace

Tensor classifier_loss(Context& ctx, const Tensor& h, Parameter& w, const Tensor& targets, float scale,
                       int64_t vocab) {
  TRIREME_ASSERT(
      h.rank() == 2 && h.dim(0) > 0 && w.shape.rank() == 2 && h.dim(1) == w.shape[1] && targets.numel() == h.dim(0),
      fmt::format("classifier {}: h {}, w {}, targets {} do not fit", w.name, to_string(h.shape()),
                  to_string(w.shape), to_string(targets.shape())));
  TRIREME_ASSERT(vocab > 0 && vocab <= w.shape[0],
                 fmt::format("classifier {}: vocabulary {} of {} rows", w.name, vocab, w.shape[0]));
  return apply(ctx, std::make_shared<ClassifierOp>(w, scale, vocab), {h, targets})[0];
}

}  // namespace trireme
