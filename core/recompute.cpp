// Recompute: a segment of the model as one operation that keeps its inputs alone and runs again in backward.
#include "core/tape.h"

namespace trireme {
namespace {

/// Gradients are reported by the outer tape, which counts the segment as one use of its parameters.
Context without_sink(const Context& ctx) {
  Context inner = ctx;
  inner.gradients = nullptr;
  return inner;
}

class RecomputeOp : public Op {
 public:
  RecomputeOp(std::string name, Segment segment) : name_(std::move(name)), segment_(std::move(segment)) {}
  std::string_view name() const override { return name_; }
  std::span<Parameter* const> parameters() const override { return parameters_; }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    saved.tensors.assign(inputs.begin(), inputs.end());
    return segment_(ctx, inputs);
  }

  /// The replay must draw what forward drew, whatever micro-batch the backward pass's context is at.
  void remember(const Context& ctx) { random_ = ctx.random, training_ = ctx.training; }

  Tensors backward_input(Context& ctx, Saved& saved, Tensors dout) const override {
    const auto tape = std::make_shared<Tape>();
    Context inner = without_sink(ctx);
    inner.tape = tape.get();
    inner.random = random_;
    inner.training = training_;
    Tensors watched;
    for (const Tensor& t : saved.tensors) watched.push_back(t.defined() ? tape->watch(t) : t);
    saved.tensors.clear();
    const Tensors outputs = segment_(inner, watched);
    tape->backward_input(inner, outputs, std::move(dout));
    Tensors din;
    for (const Tensor& t : watched) din.push_back(t.defined() ? tape->take_grad(t) : Tensor());
    saved.state = tape;
    return din;
  }

  void backward_weight(Context& ctx, Saved& saved, std::span<const Tensor> dout) const override {
    if (!saved.state) {  // no input wanted a gradient, so B did not run
      Tensors copy(dout.begin(), dout.end());
      backward_input(ctx, saved, std::move(copy));
    }
    Context inner = without_sink(ctx);
    static_cast<Tape*>(saved.state.get())->backward_weight(inner);
  }

  std::vector<Parameter*> parameters_;

 private:
  std::string name_;
  Segment segment_;
  RandomKey random_;
  bool training_ = false;
};

}  // namespace

Tensors recompute(Context& ctx, std::string_view name, Segment segment, Tensors inputs) {
  if (!ctx.tape) return segment(ctx, inputs);
  auto op = std::make_shared<RecomputeOp>(std::string(name), std::move(segment));
  op->remember(ctx);
  // The segment's parameters are read off a tape that is dropped at once, with what it saved.
  Tape tape;
  Context inner = without_sink(ctx);
  inner.tape = &tape;
  Tensors constants;
  for (const Tensor& t : inputs) constants.push_back(t.detach());
  Saved saved;
  Tensors outputs = op->forward(inner, constants, saved);
  op->parameters_ = tape.parameters();
  tape.clear();
  ctx.tape->record(std::move(op), inputs, outputs, std::move(saved));
  return outputs;
}

}  // namespace trireme
