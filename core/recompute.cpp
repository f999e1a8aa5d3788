// Recompute: a segment of the model as one operation that keeps its inputs alone and runs again in backward.
#include "core/tape.h"

namespace trireme {
namespace {

/// Passes uses on, but leaves grad_ready to the outer tape, which counts the segment as one use.
class InnerHooks : public ParameterHooks {
 public:
  explicit InnerHooks(ParameterHooks* outer) : outer_(outer) {}
  void before_use(std::span<Parameter* const> p) override {
    if (outer_) outer_->before_use(p);
  }
  void after_use(std::span<Parameter* const> p) override {
    if (outer_) outer_->after_use(p);
  }

 private:
  ParameterHooks* outer_;
};

class RecomputeOp : public Op {
 public:
  RecomputeOp(std::string name, Segment segment) : name_(std::move(name)), segment_(std::move(segment)) {}
  std::string_view name() const override { return name_; }
  std::span<Parameter* const> parameters() const override { return parameters_; }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    saved.tensors.assign(inputs.begin(), inputs.end());
    return segment_(ctx, inputs);
  }

  Tensors backward_input(Context& ctx, Saved& saved, Tensors dout) const override {
    const auto tape = std::make_shared<Tape>();
    InnerHooks hooks(ctx.hooks);
    Context inner = ctx;
    inner.tape = tape.get();
    inner.hooks = &hooks;
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
    InnerHooks hooks(ctx.hooks);
    Context inner = ctx;
    inner.hooks = &hooks;
    static_cast<Tape*>(saved.state.get())->backward_weight(inner);
  }

  std::vector<Parameter*> parameters_;

 private:
  std::string name_;
  Segment segment_;
};

}  // namespace

Tensors recompute(Context& ctx, std::string_view name, Segment segment, Tensors inputs) {
  if (!ctx.tape) return segment(ctx, inputs);
  auto op = std::make_shared<RecomputeOp>(std::string(name), std::move(segment));
  // The segment's parameters are read off a tape that is dropped at once, with what it saved.
  Tape tape;
  InnerHooks hooks(ctx.hooks);
  Context inner = ctx;
  inner.tape = &tape;
  inner.hooks = &hooks;
  Saved saved;
  for (Tensor& t : inputs) saved.tensors.push_back(t.detach());
  Tensors outputs = op->forward(inner, saved.tensors, saved);
  op->parameters_ = tape.parameters();
  tape.clear();
  ctx.tape->record(std::move(op), inputs, outputs, std::move(saved));
  return outputs;
}

}  // namespace trireme
