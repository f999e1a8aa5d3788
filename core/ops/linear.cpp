#include "core/ops/linear.h"

#include <fmt/format.h>

#include "core/tape.h"

namespace trireme {
namespace {

class LinearOp : public Op {
 public:
  LinearOp(Parameter& w, Parameter* b, bool add_bias) : parameters_{&w}, add_bias_(add_bias) {
    if (b) parameters_.push_back(b);
  }
  std::string_view name() const override { return "linear"; }
  std::span<Parameter* const> parameters() const override { return parameters_; }
  OpFlop flop(std::span<const Tensor> inputs) const override {
    const auto product = 2.0 * static_cast<double>(inputs[0].dim(0) * weight().shape.numel());
    return {product, product, product};
  }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    const Tensor& x = inputs[0];
    saved.tensors = {x};
    Tensor y = ctx.empty({x.dim(0), weight().shape[0]}, x.dtype());
    ctx.kernel<LinearForward>()(ctx, x, weight().data, bias() && add_bias_ ? bias()->data : Tensor(), y);
    return {y};
  }

  Tensors backward_input(Context& ctx, Saved&, Tensors dout) const override {
    Tensor dx = ctx.empty({dout[0].dim(0), weight().shape[1]}, dout[0].dtype());
    ctx.kernel<LinearBackwardInput>()(ctx, dout[0], weight().data, dx);
    return {dx};
  }

  void backward_weight(Context& ctx, Saved& saved, std::span<const Tensor> dout) const override {
    add_linear_gradients(ctx, saved.tensors[0], dout[0], weight(), bias());
  }

 private:
  Parameter& weight() const { return *parameters_[0]; }
  Parameter* bias() const { return parameters_.size() > 1 ? parameters_[1] : nullptr; }
  std::vector<Parameter*> parameters_;
  bool add_bias_;
};

}  // namespace

void add_linear_gradients(Context& ctx, const Tensor& x, const Tensor& dy, Parameter& w, Parameter* b) {
  Tensor none;
  const bool accumulate_w = w.begin_accumulate(), accumulate_b = b && b->begin_accumulate();
  ctx.kernel<LinearBackwardWeight>()(ctx, x, dy, accumulate_w, w.grad, accumulate_b, b ? b->grad : none);
}

Tensor linear(Context& ctx, const Tensor& x, Parameter& w, Parameter* b, bool add_bias) {
  TRIREME_ASSERT(
      x.rank() == 2 && w.shape.rank() == 2 && x.dim(1) == w.shape[1] && (!b || b->shape == Shape{w.shape[0]}),
      fmt::format("linear {}: x {}, w {}, b {} do not fit", w.name, to_string(x.shape()), to_string(w.shape),
                  b ? to_string(b->shape) : "none"));
  return apply(ctx, std::make_shared<LinearOp>(w, b, add_bias), {x})[0];
}

}  // namespace trireme
