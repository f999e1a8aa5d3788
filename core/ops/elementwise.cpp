#include "core/ops/elementwise.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

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
/// Rows of activations that are neighbours in the global batch too.
struct RowRun {
  int64_t begin, end;     // rows
  int64_t first_element;  // of the global batch [samples, T, C]
};

/// The `rows` rows of `samples` samples, C elements each, in as few runs as there can be.
std::vector<RowRun> row_runs(const RandomKey& key, int64_t rows, int64_t width, int64_t samples) {
  RowPlaces p = key.rows;
  if (p.sequence == 0) p = {rows / samples, rows / samples, 0, rows / samples, 0, 0};
  std::vector<RowRun> runs;
  for (int64_t begin = 0; begin < rows;) {
    const int64_t sample = (p.first_row + begin) / p.tokens, token = (p.first_row + begin) % p.tokens;
    const int64_t end = std::min(rows, begin + (token < p.half ? p.half : p.tokens) - token);
    const int64_t position = token < p.half ? p.first + token : p.second + token - p.half;
    const int64_t first = ((key.first_sample + sample) * p.sequence + position) * width;
    if (!runs.empty() && runs.back().first_element + (begin - runs.back().begin) * width == first)
      runs.back().end = end;
    else
      runs.push_back({begin, end, first});
    begin = end;
  }
  return runs;
}

class DropoutOp : public Op {
 public:
  DropoutOp(float p, RandomStream stream, Tensor step, std::vector<RowRun> runs)
      : p_(p), stream_(stream), step_(std::move(step)), runs_(std::move(runs)) {}
  std::string_view name() const override { return "dropout"; }
  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved&) const override {
    Tensor out = ctx.empty(inputs[0].shape(), inputs[0].dtype());
    drop(ctx, inputs[0], out);
    return {out};
  }
  Tensors backward_input(Context& ctx, Saved&, Tensors dout) const override {
    const Tensor& dy = dout[0];
    Tensor dx = dy.unique() ? dy : ctx.empty(dy.shape(), dy.dtype());
    drop(ctx, dy, dx);
    return {dx};
  }

 private:
  void drop(Context& ctx, const Tensor& x, Tensor& y) const {
    for (const RowRun& run : runs_) {
      Tensor part = y.detach().slice(run.begin, run.end);
      ctx.kernel<DropoutKernel>()(ctx, x.detach().slice(run.begin, run.end), p_, stream_, step_, run.first_element, part);
    }
  }

  float p_;
  RandomStream stream_;
  Tensor step_;
  std::vector<RowRun> runs_;
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
  TRIREME_ASSERT(samples > 0 && (ctx.random.rows.sequence > 0 || x.dim(0) % samples == 0),
                 fmt::format("dropout: {} does not hold {} samples", to_string(x.shape()), samples));
  const RandomStream stream = make_stream(ctx.random.seed, id);
  std::vector<RowRun> runs = row_runs(ctx.random, x.dim(0), x.numel() / std::max<int64_t>(1, x.dim(0)), samples);
  return apply(ctx, std::make_shared<DropoutOp>(p, stream, ctx.random.step, std::move(runs)), {x})[0];
}

}  // namespace trireme
