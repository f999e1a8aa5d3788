#include "parallel/exchange.h"

#include <fmt/format.h>

#include "core/tape.h"

namespace trireme {
namespace {

enum class Exchange : uint8_t { none, all_reduce, all_gather, reduce_scatter };

/// The result of exchanging `x`, which is there when `work` is done. x is written to where nobody else holds
/// it.
Tensor begin_exchange(Context& ctx, Exchange kind, Tensor x, Group& group, std::string_view label,
                      Work& work) {
  const int64_t rows = x.dim(0), size = group.size();
  switch (kind) {
    case Exchange::none:
      return x;
    case Exchange::all_reduce: {
      if (!x.unique()) {
        Tensor copy = ctx.empty(x.shape(), x.dtype());
        ctx.backend->copy(copy.raw(), x.raw(), x.bytes(), *ctx.stream);
        x = copy;
      }
      work = group.all_reduce(x, ReduceOp::sum, label, ctx.stream);
      return x;
    }
    case Exchange::all_gather: {
      Tensor all = ctx.empty({rows * size, x.dim(1)}, x.dtype());
      work = group.all_gather(x, all, label, ctx.stream);
      return all;
    }
    case Exchange::reduce_scatter: {
      TRIREME_ASSERT(rows % size == 0,
                     fmt::format("{}: {} rows are not divisible by {} ranks", label, rows, size));
      Tensor part = ctx.empty({rows / size, x.dim(1)}, x.dtype());
      work = group.reduce_scatter(x, part, ReduceOp::sum, label, ctx.stream);
      return part;
    }
  }
  return x;
}

class ExchangeOp : public Op {
 public:
  ExchangeOp(std::string_view name, Exchange forward, Exchange backward, Group& group)
      : name_(name), forward_(forward), backward_(backward), group_(group) {}
  std::string_view name() const override { return name_; }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved&) const override {
    Work work;
    Tensor y = begin_exchange(ctx, forward_, inputs[0].detach(), group_, name_, work);
    work.wait(*ctx.stream);
    return {y};
  }

  bool begins_input() const override { return backward_ != Exchange::none; }
  Tensors backward_input(Context& ctx, Saved& saved, Tensors dout) const override {
    const auto work = std::make_shared<Work>();
    Tensor dy = std::move(dout[0]);
    dout.clear();
    Tensor dx = begin_exchange(ctx, backward_, std::move(dy), group_, name_, *work);
    saved.state = work;
    return {dx};
  }
  void finish_input(Context& ctx, Saved& saved) const override {
    if (saved.state) static_cast<Work*>(saved.state.get())->wait(*ctx.stream);
    saved.state.reset();
  }

 private:
  std::string_view name_;  // a literal
  Exchange forward_, backward_;
  Group& group_;
};

Tensor exchange(Context& ctx, const Tensor& x, std::string_view name, Exchange forward, Exchange backward,
                Group& group) {
  TRIREME_ASSERT(x.rank() == 2,
                 fmt::format("{}: rows of [n, C] were wanted, not {}", name, to_string(x.shape())));
  return apply(ctx, std::make_shared<ExchangeOp>(name, forward, backward, group), {x})[0];
}

}  // namespace

Tensor copy_to_ranks(Context& ctx, const Tensor& x, Group& group) {
  return exchange(ctx, x, "copy_to_ranks", Exchange::none, Exchange::all_reduce, group);
}

Tensor sum_of_ranks(Context& ctx, const Tensor& x, Group& group) {
  return exchange(ctx, x, "sum_of_ranks", Exchange::all_reduce, Exchange::none, group);
}

Tensor gather_rows(Context& ctx, const Tensor& x, Group& group) {
  return exchange(ctx, x, "gather_rows", Exchange::all_gather, Exchange::reduce_scatter, group);
}

Tensor scatter_sum(Context& ctx, const Tensor& x, Group& group) {
  return exchange(ctx, x, "scatter_sum", Exchange::reduce_scatter, Exchange::all_gather, group);
}

}  // namespace trireme
