// Exchanges of activations: what forward and backward send, that they agree with sums made by hand, and that
// the weights' gradients are computed while a sum is under way.
#include "parallel/exchange.h"

#include <gmock/gmock.h>

#include <array>

#include "comm/local/local_world.h"
#include "core/ops/linear.h"
#include "core/tape.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;

constexpr int kRanks = 3;

/// Runs `body(world, ctx)` on three threads.
template <class F>
void on_ranks(const F& body) {
  LocalWorld(kRanks).run([&](Group& world) {
    ASSERT_EQ(world.size(), kRanks);
    Engine engine(make_cpu_backend(1));
    body(world, engine.context());
  });
}

Tensor rows(const Context& ctx, int64_t n, float first) {
  std::vector<float> values(static_cast<size_t>(2 * n));
  for (size_t i = 0; i < values.size(); ++i) values[i] = first + static_cast<float>(i);
  return ctx.from_host<float>(values, {n, 2});
}

/// y of `op` on x, and x's gradient where y's is `dy`.
template <class F>
std::pair<Tensor, Tensor> both_ways(Context ctx, const Tensor& x, const Tensor& dy, const F& op) {
  Tape tape;
  ctx.tape = &tape;
  const Tensor watched = tape.watch(x);
  const Tensor y = op(ctx, watched);
  tape.backward(ctx, std::span(&y, 1), {dy});
  return {y, tape.take_grad(watched)};
}

TEST(ExchangeTest, CopyIsSummedBack) {
  on_ranks([](Group& world, const Context& ctx) {
    const auto r = static_cast<float>(world.rank());
    const auto [y, dx] = both_ways(ctx, rows(ctx, 1, 5), rows(ctx, 1, r),
                                   [&](Context& c, const Tensor& x) { return copy_to_ranks(c, x, world); });
    EXPECT_THAT(y.span<float>(), ElementsAre(5, 6));
    EXPECT_THAT(dx.span<float>(), ElementsAre(3, 6));
  });
}

TEST(ExchangeTest, SumIsCopiedBack) {
  on_ranks([](Group& world, const Context& ctx) {
    const auto r = static_cast<float>(world.rank());
    const Tensor x = rows(ctx, 1, r);
    const auto [y, dx] = both_ways(ctx, x, rows(ctx, 1, 7),
                                   [&](Context& c, const Tensor& t) { return sum_of_ranks(c, t, world); });
    EXPECT_THAT(y.span<float>(), ElementsAre(3, 6));
    EXPECT_THAT(dx.span<float>(), ElementsAre(7, 8));
    EXPECT_THAT(x.span<float>(), ElementsAre(r, r + 1)) << "the input is not written to";
  });
}

TEST(ExchangeTest, GatheredRowsAreScatteredBack) {
  on_ranks([](Group& world, const Context& ctx) {
    const auto r = static_cast<float>(world.rank());
    const auto [y, dx] = both_ways(ctx, rows(ctx, 1, 10 * r), rows(ctx, kRanks, 0),
                                   [&](Context& c, const Tensor& x) { return gather_rows(c, x, world); });
    EXPECT_THAT(y.span<float>(), ElementsAre(0, 1, 10, 11, 20, 21));
    EXPECT_THAT(dx.span<float>(), ElementsAre(kRanks * 2 * r, kRanks * (2 * r + 1)));
  });
}

TEST(ExchangeTest, ScatteredSumIsGatheredBack) {
  on_ranks([](Group& world, const Context& ctx) {
    const auto r = static_cast<float>(world.rank());
    const auto [y, dx] = both_ways(ctx, rows(ctx, kRanks, 0), rows(ctx, 1, 10 * r),
                                   [&](Context& c, const Tensor& x) { return scatter_sum(c, x, world); });
    EXPECT_THAT(y.span<float>(), ElementsAre(kRanks * 2 * r, kRanks * (2 * r + 1)));
    EXPECT_THAT(dx.span<float>(), ElementsAre(0, 1, 10, 11, 20, 21));
  });
}

/// What happened on a rank, in order.
class Sequence : public GradientSink {
 public:
  void grad_ready(Parameter&) override { events.push_back("gradient"); }
  std::vector<std::string> events;
};

/// Notes when its B runs.
class Noted : public Op {
 public:
  Noted(std::vector<std::string>& events, std::string event, bool sends)
      : events_(events), event_(std::move(event)), sends_(sends) {}
  std::string_view name() const override { return event_; }
  Tensors forward(Context&, std::span<const Tensor> inputs, Saved&) const override {
    return {inputs[0].detach()};
  }
  bool sends_input_gradient() const override { return sends_; }
  Tensors backward_input(Context&, Saved&, Tensors dout) const override {
    events_.push_back(event_);
    return {dout[0]};
  }

 private:
  std::vector<std::string>& events_;
  std::string event_;
  bool sends_;
};

// Two exchanges under way at a time, as of two halves of a batch.
TEST(ExchangeTest, MayBeFinishedLater) {
  on_ranks([](Group& world, const Context& outer) {
    Context ctx = outer;
    Tape tape;
    ctx.tape = &tape;
    const auto r = static_cast<float>(world.rank());
    const Tensor a = tape.watch(rows(ctx, 1, 10 * r)), b = tape.watch(rows(ctx, kRanks, r));
    Exchange gathered = begin_gather_rows(ctx, a, world);
    Exchange summed = begin_scatter_sum(ctx, b, world);
    const std::array<Tensor, 2> y{gathered.finish(ctx), summed.finish(ctx)};
    EXPECT_THAT(y[0].span<float>(), ElementsAre(0, 1, 10, 11, 20, 21));
    EXPECT_THAT(y[1].span<float>(), ElementsAre(3 + 6 * r, 6 + 6 * r));
    tape.backward(ctx, y, {rows(ctx, kRanks, 0), rows(ctx, 1, 10 * r)});
    EXPECT_THAT(tape.take_grad(a).span<float>(), ElementsAre(kRanks * 2 * r, kRanks * (2 * r + 1)));
    EXPECT_THAT(tape.take_grad(b).span<float>(), ElementsAre(0, 1, 10, 11, 20, 21));
  });
}

TEST(ExchangeTest, WeightsGradientIsComputedWhileTheSumIsUnderWay) {
  Engine engine(make_cpu_backend(1));
  Context ctx = engine.context();
  Parameter w{.name = "w",
              .shape = {2, 2},
              .placement = {},
              .init = Init::ones(),
              .data = ctx.zeros({2, 2}),
              .grad = ctx.zeros({2, 2})};
  Sequence sequence;
  Tape tape;
  ctx.tape = &tape;
  ctx.gradients = &sequence;
  const Tensor x = tape.watch(rows(ctx, 3, 1));
  const Tensor begun = apply(ctx, std::make_shared<Noted>(sequence.events, "end", false), {x})[0];
  const Tensor finished = apply(ctx, std::make_shared<Noted>(sequence.events, "begin", true), {begun})[0];
  const Tensor y = linear(ctx, finished, w, nullptr);
  tape.backward(ctx, std::span(&y, 1), {rows(ctx, 3, 2)});
  EXPECT_THAT(sequence.events, ElementsAre("begin", "gradient", "end"));
  EXPECT_TRUE(tape.take_grad(x).defined());
  EXPECT_NE(w.grad.span<float>()[0], 0.0f);
}

}  // namespace
}  // namespace trireme
