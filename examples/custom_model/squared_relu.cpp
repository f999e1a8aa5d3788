#include "squared_relu.h"

using namespace trireme;

namespace custom {
namespace {

class SquaredRelu : public Op {
 public:
  std::string_view name() const override { return "squared_relu"; }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    const Tensor& x = inputs[0];
    Tensor y = ctx.empty(x.shape());
    ctx.kernel<SquaredReluForward>()(ctx, x, y);
    saved.tensors = {x};
    return {y};
  }

  Tensors backward_input(Context& ctx, Saved& saved, Tensors dout) const override {
    Tensor dx = dout[0].unique() ? dout[0] : ctx.empty(dout[0].shape());
    ctx.kernel<SquaredReluBackward>()(ctx, saved.tensors[0], dout[0], dx);
    return {dx};
  }
};

}  // namespace

Tensor squared_relu(Context& ctx, const Tensor& x) {
  return apply(ctx, std::make_shared<SquaredRelu>(), {x})[0];
}

}  // namespace custom
