#include "core/ops/elementwise.h"

#include <fmt/format.h>

#include "core/tape.h"

namespace trireme {
namespace {

class AddOp : public Op {
 public:
  std::string_view name() const override { return "add"; }
  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved&) const override {
    Tensor out = ctx.empty(inputs[0].shape(), inputs[0].dtype());
    ctx.kernel<AddKernel>()(ctx, inputs[0], inputs[1], out);
    return {out};
  }
  Tensors backward_input(Context&, Saved&, Tensors dout) const override { return {dout[0], dout[0]}; }
};

class ScaleOp : public Op {
 public:
  explicit ScaleOp(float factor) : factor_(factor) {}
  std::string_view name() const override { return "scale"; }
  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved&) const override {
    Tensor out = ctx.empty(inputs[0].shape(), inputs[0].dtype());
    ctx.kernel<ScaleKernel>()(ctx, factor_, inputs[0], out);
    return {out};
  }
  Tensors backward_input(Context& ctx, Saved&, Tensors dout) const override {
    const Tensor& dy = dout[0];
    Tensor dx = dy.unique() ? dy : ctx.empty(dy.shape(), dy.dtype());
    ctx.kernel<ScaleKernel>()(ctx, factor_, dy, dx);
    return {dx};
  }

 private:
  float factor_;
};

class CastOp : public Op {
 public:
  CastOp(DType from, DType to) : from_(from), to_(to) {}
  std::string_view name() const override { return "cast"; }
  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved&) const override {
    return {convert(ctx, inputs[0], to_)};
  }
  Tensors backward_input(Context& ctx, Saved&, Tensors dout) const override {
    return {convert(ctx, dout[0], from_)};
  }

 private:
  static Tensor convert(Context& ctx, const Tensor& x, DType dtype) {
    Tensor out = ctx.empty(x.shape(), dtype);
    ctx.kernel<CastKernel>()(ctx, x, out);
    return out;
  }
  DType from_, to_;
};

/// The mask is made again in backward, so nothing is saved.
class DropoutOp : public Op {
 public:
  DropoutOp(float p, RandomStream stream, Tensor step, int64_t first_element)
      : p_(p), stream_(stream), step_(std::move(step)), first_element_(first_element) {}
  std::string_view name() const override { return "dropout"; }
  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved&) const override {
    Tensor out = ctx.empty(inputs[0].shape(), inputs[0].dtype());
    ctx.kernel<DropoutKernel>()(ctx, inputs[0], p_, stream_, step_, first_element_, out);
    return {out};
  }
  Tensors backward_input(Context& ctx, Saved&, Tensors dout) const override {
    const Tensor& dy = dout[0];
    Tensor dx = dy.unique() ? dy : ctx.empty(dy.shape(), dy.dtype());
    ctx.kernel<DropoutKernel>()(ctx, dy, p_, stream_, step_, first_element_, dx);
    return {dx};
  }

 private:
  float p_;
  RandomStream stream_;
  Tensor step_;
  int64_t first_element_;
};

}  // namespace

Tensor add(Context& ctx, const Tensor& a, const Tensor& b) {
  TRIREME_ASSERT(a.shape() == b.shape() && a.dtype() == b.dtype(),
                 fmt::format("add: {} {} and {} {} differ", name_of(a.dtype()), to_string(a.shape()),
                             name_of(b.dtype()), to_string(b.shape())));
  return apply(ctx, std::make_shared<AddOp>(), {a, b})[0];
}

Tensor scale(Context& ctx, const Tensor& x, float factor) {
  return apply(ctx, std::make_shared<ScaleOp>(factor), {x})[0];
}

Tensor cast(Context& ctx, const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  return apply(ctx, std::make_shared<CastOp>(x.dtype(), dtype), {x})[0];
}

void add_to_grad(Context& ctx, Parameter& p, const Tensor& sum) {
  if (p.begin_accumulate())
    ctx.kernel<AddKernel>()(ctx, p.grad, sum, p.grad);
  else
    ctx.backend->copy(p.grad.raw(), sum.raw(), sum.bytes(), *ctx.stream);
}

Tensor dropout(Context& ctx, const Tensor& x, float p, uint64_t id, int64_t samples) {
  if (!(p >= 0.0f && p < 1.0f)) throw ConfigError(fmt::format("dropout: p is {}; it must be in [0, 1)", p));
  if (!ctx.training || p == 0.0f) return x;
  TRIREME_ASSERT(samples > 0 && x.numel() % samples == 0,
                 fmt::format("dropout: {} does not hold {} samples", to_string(x.shape()), samples));
  const RandomStream stream = make_stream(ctx.random.seed, id);
  const int64_t first_element = ctx.random.first_sample * (x.numel() / samples);
  return apply(ctx, std::make_shared<DropoutOp>(p, stream, ctx.random.step, first_element), {x})[0];
}

}  // namespace trireme
