#include "core/ops/layer_norm.h"

#include <fmt/format.h>

#include "core/ops/elementwise.h"
#include "core/tape.h"

namespace trireme {
namespace {

/// Inputs x and delta (perhaps undefined), outputs residual and normed.
class AddLayerNormOp : public Op {
 public:
  AddLayerNormOp(Parameter& w, Parameter* b, float eps) : parameters_{&w}, eps_(eps) {
    if (b) parameters_.push_back(b);
  }
  std::string_view name() const override { return "layer_norm"; }
  std::span<Parameter* const> parameters() const override { return parameters_; }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    const Tensor &x = inputs[0], &delta = inputs[1];
    Tensor residual = delta.defined() ? ctx.empty(x.shape(), x.dtype()) : x;
    Tensor normed = ctx.empty(x.shape(), x.dtype());
    Tensor mean = ctx.empty({x.dim(0)}), rstd = ctx.empty({x.dim(0)});
    ctx.kernel<LayerNormForward>()(ctx, x, delta, weight().data, bias() ? bias()->data : Tensor(), eps_,
                                   residual, normed, mean, rstd);
    saved.tensors = {residual, mean, rstd};
    return {residual, normed};
  }

  // One pass over memory gives dx and the sums that are dw and db; W only adds those to the gradients.
  Tensors backward_input(Context& ctx, Saved& saved, Tensors dout) const override {
    const Tensor &dresidual = dout[0], &dnormed = dout[1];
    if (!dnormed.defined()) {
      saved.tensors = {Tensor()};
      return {dresidual, dresidual};
    }
    Tensor dwb = ctx.empty({2, dnormed.dim(1)}, DType::f32, MemoryClass::gradients);
    Tensor dx = dresidual.unique() ? dresidual : ctx.empty(dnormed.shape(), dnormed.dtype());
    ctx.kernel<LayerNormBackward>()(ctx, saved.tensors[0], weight().data, saved.tensors[1], saved.tensors[2],
                                    dresidual, dnormed, dx, dwb);
    saved.tensors = {dwb};
    return {dx, dx};
  }
  bool weights_need_gradients() const override { return false; }

  void backward_weight(Context& ctx, Saved& saved, std::span<const Tensor> dout) const override {
    if (saved.tensors.size() > 1) backward_input(ctx, saved, {dout.begin(), dout.end()});  // B did not run
    const Tensor& dwb = saved.tensors[0];
    if (!dwb.defined()) return;
    const int64_t width = dwb.dim(1);
    add_to_grad(ctx, weight(), dwb.flat_view(0, {width}));
    if (bias()) add_to_grad(ctx, *bias(), dwb.flat_view(width, {width}));
  }

 private:
  Parameter& weight() const { return *parameters_[0]; }
  Parameter* bias() const { return parameters_.size() > 1 ? parameters_[1] : nullptr; }
  std::vector<Parameter*> parameters_;
  float eps_;
};

}  // namespace

AddNormOutputs add_layer_norm(Context& ctx, const Tensor& x, const Tensor& delta, Parameter& w, Parameter* b,
                              float eps) {
  TRIREME_ASSERT(x.rank() == 2 && w.shape == Shape{x.dim(1)} && (!b || b->shape == w.shape) &&
                     (!delta.defined() || delta.shape() == x.shape()),
                 fmt::format("layer_norm {}: x {}, delta {}, w {}, b {} do not fit", w.name,
                             to_string(x.shape()), delta.defined() ? to_string(delta.shape()) : "none",
                             to_string(w.shape), b ? to_string(b->shape) : "none"));
  const Tensors out = apply(ctx, std::make_shared<AddLayerNormOp>(w, b, eps), {x, delta});
  return {out[0], out[1]};
}

Tensor layer_norm(Context& ctx, const Tensor& x, Parameter& w, Parameter* b, float eps) {
  return add_layer_norm(ctx, x, {}, w, b, eps).normed;
}

}  // namespace trireme
