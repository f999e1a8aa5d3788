#include "core/ops/rows.h"

#include "core/tape.h"

namespace trireme {
namespace {

/// An undefined part counts as zeros.
Tensor joined(const Context& ctx, const std::array<Tensor, 2>& parts, const std::array<int64_t, 2>& rows) {
  const Tensor& some = parts[0].defined() ? parts[0] : parts[1];
  const Tensor all = ctx.empty({rows[0] + rows[1], some.dim(1)}, some.dtype());
  const std::array places{all.slice(0, rows[0]), all.slice(rows[0], rows[0] + rows[1])};
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].defined())
      ctx.backend->copy(places[i].raw(), parts[i].raw(), parts[i].bytes(), *ctx.stream);
    else
      ctx.backend->fill_zero(places[i].raw(), places[i].bytes(), *ctx.stream);
  }
  return all;
}

class SplitRows : public Op {
 public:
  SplitRows(int64_t first, int64_t second) : rows_{first, second} {}
  std::string_view name() const override { return "split_rows"; }
  Tensors forward(Context&, std::span<const Tensor> inputs, Saved&) const override {
    const Tensor x = inputs[0].detach();
    return {x.slice(0, rows_[0]), x.slice(rows_[0], rows_[0] + rows_[1])};
  }
  Tensors backward_input(Context& ctx, Saved&, Tensors dout) const override {
    return {joined(ctx, {dout[0], dout[1]}, rows_)};
  }

 private:
  std::array<int64_t, 2> rows_;
};

class JoinRows : public Op {
 public:
  std::string_view name() const override { return "join_rows"; }
  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    const std::array rows{inputs[0].dim(0), inputs[1].dim(0)};
    saved.state = std::make_shared<int64_t>(rows[0]);
    return {joined(ctx, {inputs[0].detach(), inputs[1].detach()}, rows)};
  }
  Tensors backward_input(Context&, Saved& saved, Tensors dout) const override {
    const int64_t rows = *static_cast<int64_t*>(saved.state.get());
    return {dout[0].slice(0, rows), dout[0].slice(rows, dout[0].dim(0))};
  }
};

}  // namespace

std::array<Tensor, 2> split_rows(Context& ctx, const Tensor& x, int64_t rows) {
  TRIREME_ASSERT(x.rank() == 2 && rows > 0 && rows < x.dim(0), "split_rows: wanted rows on both sides");
  Tensors parts = apply(ctx, std::make_shared<SplitRows>(rows, x.dim(0) - rows), {x});
  return {parts[0], parts[1]};
}

Tensor join_rows(Context& ctx, const Tensor& a, const Tensor& b) {
  TRIREME_ASSERT(a.rank() == 2 && b.rank() == 2 && a.dim(1) == b.dim(1) && a.dtype() == b.dtype(),
                 "join_rows: wanted rows of one width and type");
  return apply(ctx, std::make_shared<JoinRows>(), {a, b})[0];
}

}  // namespace trireme
