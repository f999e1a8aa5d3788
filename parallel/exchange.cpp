#include "parallel/exchange.h"

#include <fmt/format.h>

#include "core/tape.h"

namespace trireme {
namespace {

enum class Way : uint8_t { none, all_reduce, all_gather, reduce_scatter };

/// The result of exchanging `x`, which is there when `work` is done. x is written to where nobody else holds
/// it.
Tensor begin_exchange(Context& ctx, Way kind, Tensor x, Group& group, std::string_view label,
                      Work& work) {
  const int64_t rows = x.dim(0), size = group.size();
  switch (kind) {
    case Way::none:
      return x;
    case Way::all_reduce: {
      if (!x.unique()) {
        Tensor copy = ctx.empty(x.shape(), x.dtype());
        ctx.backend->copy(copy.raw(), x.raw(), x.bytes(), *ctx.stream);
        x = copy;
      }
      work = group.all_reduce(x, ReduceOp::sum, label, ctx.stream);
      return x;
    }
    case Way::all_gather: {
      Tensor all = ctx.empty({rows * size, x.dim(1)}, x.dtype());
      work = group.all_gather(x, all, label, ctx.stream);
      return all;
    }
    case Way::reduce_scatter: {
      TRIREME_ASSERT(rows % size == 0,
                     fmt::format("{}: {} rows are not divisible by {} ranks", label, rows, size));
      Tensor part = ctx.empty({rows / size, x.dim(1)}, x.dtype());
      work = group.reduce_scatter(x, part, ReduceOp::sum, label, ctx.stream);
      return part;
    }
  }
  return x;
}

}  // namespace

/// What both operations of an exchange know.
struct ExchangeInFlight {
  std::string_view name;  // a literal
  Way forward, backward;
  Group& group;
  Work work;  // of the pass that is going on

  Tensor begin(Context& ctx, Way way, Tensor x) { return begin_exchange(ctx, way, std::move(x), group, name, work); }
  void wait(Context& ctx) {
    work.wait(*ctx.stream);
    work = Work();
  }
};

namespace {

class ExchangeOp : public Op {
 public:
  explicit ExchangeOp(std::shared_ptr<ExchangeInFlight> in_flight) : in_flight_(std::move(in_flight)) {}
  std::string_view name() const override { return in_flight_->name; }

 protected:
  std::shared_ptr<ExchangeInFlight> in_flight_;
};

/// Sends x off; its result is there after FinishOp. B: waits for what that one's B sent off.
class BeginOp : public ExchangeOp {
 public:
  using ExchangeOp::ExchangeOp;
  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved&) const override {
    return {in_flight_->begin(ctx, in_flight_->forward, inputs[0].detach())};
  }
  Tensors backward_input(Context& ctx, Saved&, Tensors dout) const override {
    in_flight_->wait(ctx);
    return dout;
  }
};

class FinishOp : public ExchangeOp {
 public:
  using ExchangeOp::ExchangeOp;
  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved&) const override {
    in_flight_->wait(ctx);
    return {inputs[0].detach()};
  }
  bool sends_input_gradient() const override { return in_flight_->backward != Way::none; }
  Tensors backward_input(Context& ctx, Saved&, Tensors dout) const override {
    Tensor dy = std::move(dout[0]);
    dout.clear();
    return {in_flight_->begin(ctx, in_flight_->backward, std::move(dy))};
  }
};

Exchange begin(Context& ctx, const Tensor& x, std::string_view name, Way forward, Way backward, Group& group) {
  TRIREME_ASSERT(x.rank() == 2, fmt::format("{}: rows of [n, C] were wanted, not {}", name, to_string(x.shape())));
  auto in_flight = std::make_shared<ExchangeInFlight>(ExchangeInFlight{name, forward, backward, group, Work()});
  Tensor begun = apply(ctx, std::make_shared<BeginOp>(in_flight), {x})[0];
  return Exchange(std::move(begun), std::move(in_flight));
}

}  // namespace

Tensor Exchange::finish(Context& ctx) {
  Tensor value = std::exchange(value_, Tensor());
  if (!in_flight_) return value;
  return apply(ctx, std::make_shared<FinishOp>(std::exchange(in_flight_, nullptr)), {std::move(value)})[0];
}

Exchange begin_copy_to_ranks(Context& ctx, const Tensor& x, Group& group) {
  return begin(ctx, x, "copy_to_ranks", Way::none, Way::all_reduce, group);
}

Exchange begin_sum_of_ranks(Context& ctx, const Tensor& x, Group& group) {
  return begin(ctx, x, "sum_of_ranks", Way::all_reduce, Way::none, group);
}

Exchange begin_gather_rows(Context& ctx, const Tensor& x, Group& group) {
  return begin(ctx, x, "gather_rows", Way::all_gather, Way::reduce_scatter, group);
}

Exchange begin_scatter_sum(Context& ctx, const Tensor& x, Group& group) {
  return begin(ctx, x, "scatter_sum", Way::reduce_scatter, Way::all_gather, group);
}

Tensor copy_to_ranks(Context& ctx, const Tensor& x, Group& group) { return begin_copy_to_ranks(ctx, x, group).finish(ctx); }
Tensor sum_of_ranks(Context& ctx, const Tensor& x, Group& group) { return begin_sum_of_ranks(ctx, x, group).finish(ctx); }
Tensor gather_rows(Context& ctx, const Tensor& x, Group& group) { return begin_gather_rows(ctx, x, group).finish(ctx); }
Tensor scatter_sum(Context& ctx, const Tensor& x, Group& group) { return begin_scatter_sum(ctx, x, group).finish(ctx); }

}  // namespace trireme
