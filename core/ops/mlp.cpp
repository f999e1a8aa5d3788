#include "core/ops/mlp.h"

#include <fmt/format.h>

#include "core/ops/elementwise.h"
#include "core/ops/gelu.h"
#include "core/ops/linear.h"
#include "core/tape.h"

namespace trireme {
namespace {

class MlpOp : public Op {
 public:
  MlpOp(const MlpParameters& p, bool recompute_gelu) : p_(p), recompute_gelu_(recompute_gelu) {
    for (Parameter* parameter : {&p.up_w, p.up_b, &p.down_w, p.down_b})
      if (parameter) parameters_.push_back(parameter);
  }
  std::string_view name() const override { return "mlp"; }
  std::span<Parameter* const> parameters() const override { return parameters_; }
  OpFlop flop(std::span<const Tensor> inputs) const override {
    const auto products = 2.0 * static_cast<double>(inputs[0].dim(0) * (p_.up_w.shape.numel() + p_.down_w.shape.numel()));
    return {products, products, products};
  }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    const Tensor& x = inputs[0];
    const int64_t rows = x.dim(0);
    const Shape hidden{rows, p_.up_w.shape[0]};
    Tensor h = ctx.tape ? ctx.empty(hidden, x.dtype()) : Tensor();
    Tensor a = ctx.empty(hidden, x.dtype());
    ctx.kernel<LinearGeluForward>()(ctx, x, p_.up_w.data, data_of(p_.up_b), h, a);
    Tensor y = ctx.empty({rows, p_.down_w.shape[0]}, x.dtype());
    ctx.kernel<LinearForward>()(ctx, a, p_.down_w.data, p_.add_down_b ? data_of(p_.down_b) : Tensor(), y);
    if (ctx.tape) saved.tensors = {x, h, recompute_gelu_ ? Tensor() : a};
    return {y};
  }

  Tensors backward_input(Context& ctx, Saved& saved, Tensors dout) const override {
    make_hidden_gradient(ctx, saved, dout[0]);
    const Tensor& dh = saved.tensors[kDh];
    Tensor dx = ctx.empty({dh.dim(0), p_.up_w.shape[1]}, dh.dtype());
    ctx.kernel<LinearBackwardInput>()(ctx, dh, p_.up_w.data, dx);
    return {dx};
  }

  void backward_weight(Context& ctx, Saved& saved, std::span<const Tensor> dout) const override {
    if (saved.tensors.size() <= kDh) make_hidden_gradient(ctx, saved, dout[0]);  // B did not run: x is a constant
    add_linear_gradients(ctx, saved.tensors[kA], dout[0], p_.down_w, p_.down_b);
    add_linear_gradients(ctx, saved.tensors[kX], saved.tensors[kDh], p_.up_w, nullptr);
    if (p_.up_b) add_to_grad(ctx, *p_.up_b, saved.tensors[kDb]);
  }

 private:
  enum : size_t { kX, kH, kA, kDh, kDb };  // what is saved; from dh on, h is not needed

  static Tensor data_of(const Parameter* p) { return p ? p->data : Tensor(); }

  /// Puts dh and db (the sum of its rows, for up_b) beside what is saved, and a in h's place where it was not kept.
  void make_hidden_gradient(Context& ctx, Saved& saved, const Tensor& dy) const {
    Tensor h = std::exchange(saved.tensors[kH], Tensor());
    Tensor dh = ctx.empty(h.shape(), h.dtype()), db;
    if (p_.up_b) db = ctx.empty(p_.up_b->shape, DType::f32, MemoryClass::gradients);
    ctx.kernel<LinearBackwardInputGelu>()(ctx, dy, p_.down_w.data, h, dh, db);
    if (!saved.tensors[kA].defined()) {
      ctx.kernel<GeluForward>()(ctx, h, h);
      saved.tensors[kA] = h;
    }
    saved.tensors.push_back(dh);
    saved.tensors.push_back(db);
  }

  MlpParameters p_;
  bool recompute_gelu_;
  std::vector<Parameter*> parameters_;
};

void check_bias(const Parameter* b, const Parameter& w) {
  TRIREME_ASSERT(!b || b->shape == Shape{w.shape[0]},
                 fmt::format("mlp: bias {} does not fit {} {}", b ? to_string(b->shape) : "", w.name, to_string(w.shape)));
}

}  // namespace

Tensor mlp(Context& ctx, const Tensor& x, const MlpParameters& p, bool recompute_gelu) {
  TRIREME_ASSERT(x.rank() == 2 && p.up_w.shape.rank() == 2 && p.down_w.shape.rank() == 2 && x.dim(1) == p.up_w.shape[1] &&
                     p.down_w.shape[1] == p.up_w.shape[0],
                 fmt::format("mlp: x {}, {} {}, {} {} do not fit", to_string(x.shape()), p.up_w.name,
                             to_string(p.up_w.shape), p.down_w.name, to_string(p.down_w.shape)));
  check_bias(p.up_b, p.up_w);
  check_bias(p.down_b, p.down_w);
  return apply(ctx, std::make_shared<MlpOp>(p, recompute_gelu), {x})[0];
}

}  // namespace trireme
