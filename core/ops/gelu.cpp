#include "core/ops/gelu.h"

#include "core/tape.h"

namespace trireme {
namespace {

class GeluOp : public Op {
 public:
  std::string_view name() const override { return "gelu"; }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    saved.tensors = {inputs[0]};
    Tensor y = ctx.empty(inputs[0].shape(), inputs[0].dtype());
    ctx.kernel<GeluForward>()(ctx, inputs[0], y);
    return {y};
  }

  Tensors backward_input(Context& ctx, Saved& saved, Tensors dout) const override {
    const Tensor& dy = dout[0];
    Tensor dx = dy.unique() ? dy : ctx.empty(dy.shape(), dy.dtype());
    ctx.kernel<GeluBackward>()(ctx, saved.tensors[0], dy, dx);
    return {dx};
  }
};

}  // namespace

Tensor gelu(Context& ctx, const Tensor& x) {
  return apply(ctx, std::make_shared<GeluOp>(), {x})[0];
}

}  // namespace trireme
