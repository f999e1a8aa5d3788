// The tape: order, accumulation, split passes, hooks and recompute, on small operations of the test's own.
#include "core/tape.h"

#include <gmock/gmock.h>

#include "core/nn/buckets.h"
#include "core/nn/module.h"
#include "core/ops/elementwise.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::Pointwise;

/// y = p * x^2, element by element. Counts its passes.
struct ScaledSquare : Op {
  explicit ScaledSquare(Parameter& p, std::vector<std::string>* log = nullptr) : p_(&p), log_(log) {}
  std::string_view name() const override { return "scaled_square"; }
  std::span<Parameter* const> parameters() const override { return {&p_, 1}; }
  Tensors forward(Context& ctx, std::span<const Tensor> in, Saved& saved) const override {
    if (log_) log_->push_back("F " + p_->name);
    Tensor y = ctx.empty(in[0].shape());
    for (int64_t i = 0; i < y.numel(); ++i)
      y.data<float>()[i] = p_->data.data<float>()[i] * in[0].data<float>()[i] * in[0].data<float>()[i];
    saved.tensors = {in[0]};
    return {y};
  }
  Tensors backward_input(Context& ctx, Saved& saved, Tensors dout) const override {
    if (log_) log_->push_back("B " + p_->name);
    Tensor dx = ctx.empty(dout[0].shape());
    for (int64_t i = 0; i < dx.numel(); ++i)
      dx.data<float>()[i] = 2 * p_->data.data<float>()[i] * saved.tensors[0].data<float>()[i] * dout[0].data<float>()[i];
    return {dx};
  }
  void backward_weight(Context&, Saved& saved, std::span<const Tensor> dout) const override {
    if (log_) log_->push_back("W " + p_->name);
    const bool add = p_->begin_accumulate();
    for (int64_t i = 0; i < p_->grad.numel(); ++i) {
      const float x = saved.tensors[0].data<float>()[i];
      float& g = p_->grad.data<float>()[i];
      g = (add ? g : 0.0f) + x * x * dout[0].data<float>()[i];
    }
  }
  Parameter* p_;
  std::vector<std::string>* log_;
};

struct Weights : Module {
  Parameter& a = add_parameter("a", {3}, Init::ones());
  Parameter& b = add_parameter("b", {3}, Init::ones());
};

class TapeTest : public ::testing::Test {
 protected:
  TapeTest() { buckets_ = allocate_parameters(ctx_, weights_.parameters(), 1); }
  Tensor square(Context& ctx, const Tensor& x, Parameter& p) {
    return apply(ctx, std::make_shared<ScaledSquare>(p, &log_), {x})[0];
  }
  Tensor vector(std::initializer_list<float> v) {
    return ctx_.from_host<float>(std::span(v.begin(), v.size()), {static_cast<int64_t>(v.size())});
  }
  static std::vector<float> values(const Tensor& t) { return {t.span<float>().begin(), t.span<float>().end()}; }

  Engine engine_{make_cpu_backend(1)};
  Context ctx_ = engine_.context();
  Weights weights_;
  std::vector<Bucket> buckets_;
  std::vector<std::string> log_;
};

TEST_F(TapeTest, ChainGivesInputAndWeightGradients) {
  Tape tape;
  ctx_.tape = &tape;
  const Tensor x = tape.watch(vector({1, 2, 3}));
  const Tensor y = square(ctx_, square(ctx_, x, weights_.a), weights_.b);  // b (a x^2)^2
  tape.backward(ctx_, y);
  EXPECT_THAT(values(tape.take_grad(x)), ElementsAre(4, 32, 108));       // 4 x^3
  EXPECT_THAT(values(weights_.a.grad), ElementsAre(2, 32, 162));         // 2 x^4
  EXPECT_THAT(values(weights_.b.grad), ElementsAre(1, 16, 81));          // x^4
  EXPECT_THAT(log_, ElementsAre("F a", "F b", "B b", "W b", "B a", "W a"));
  EXPECT_TRUE(tape.empty());
}

TEST_F(TapeTest, SplitPassesEqualTheFullOne) {
  Tape tape;
  ctx_.tape = &tape;
  const Tensor x = tape.watch(vector({1, 2, 3}));
  const Tensor y = square(ctx_, square(ctx_, x, weights_.a), weights_.b);
  tape.backward_input(ctx_, std::span(&y, 1));
  EXPECT_THAT(values(tape.take_grad(x)), ElementsAre(4, 32, 108));
  EXPECT_FALSE(weights_.a.grad_written);
  tape.backward_weight(ctx_);
  EXPECT_THAT(values(weights_.a.grad), ElementsAre(2, 32, 162));
  EXPECT_THAT(values(weights_.b.grad), ElementsAre(1, 16, 81));
  EXPECT_THAT(log_, ElementsAre("F a", "F b", "B b", "B a", "W b", "W a"));
}

TEST_F(TapeTest, FanOutAddsGradients) {
  Tape tape;
  ctx_.tape = &tape;
  const Tensor x = tape.watch(vector({1, 2, 3}));
  const Tensor y = add(ctx_, square(ctx_, x, weights_.a), square(ctx_, x, weights_.a));
  tape.backward(ctx_, y);
  EXPECT_THAT(values(tape.take_grad(x)), ElementsAre(4, 8, 12));
  EXPECT_THAT(values(weights_.a.grad), ElementsAre(2, 8, 18));
}

TEST_F(TapeTest, GradReadyComesOnceAfterTheLastUse) {
  struct Hooks : ParameterHooks, GradientSink {
    explicit Hooks(std::vector<std::string>& log) : log(log) {}
    void before_use(std::span<Parameter* const> p) override { log.push_back("use " + p[0]->name); }
    void grad_ready(Parameter& p) override { log.push_back("ready " + p.name); }
    std::vector<std::string>& log;
  } hooks(log_);
  Tape tape;
  ctx_.tape = &tape;
  ctx_.hooks = &hooks;
  ctx_.gradients = &hooks;
  const Tensor y = square(ctx_, square(ctx_, vector({1, 2, 3}), weights_.a), weights_.a);
  tape.backward(ctx_, y);
  EXPECT_THAT(log_, ElementsAre("use a", "F a", "use a", "F a", "use a", "B a", "W a", "use a", "W a", "ready a"));
}

TEST_F(TapeTest, ConstantsAreNotRecorded) {
  Tape tape;
  ctx_.tape = &tape;
  const Tensor y = add(ctx_, vector({1}), vector({2}));
  EXPECT_TRUE(tape.empty());
  EXPECT_LT(y.tape_id(), 0);
}

TEST_F(TapeTest, RecomputeGivesTheSameGradientsAndKeepsLess) {
  const auto run = [&](bool replay) {
    for (Parameter* p : weights_.parameters()) p->grad_written = false;
    log_.clear();
    Tape tape;
    Context ctx = ctx_;
    ctx.tape = &tape;
    const Tensor x = tape.watch(vector({1, 2, 3}));
    const Segment segment = [&](Context& c, std::span<const Tensor> in) {
      return Tensors{square(c, square(c, in[0], weights_.a), weights_.b)};
    };
    const Tensor y = replay ? recompute(ctx, "segment", segment, {x})[0] : segment(ctx, std::span(&x, 1))[0];
    EXPECT_EQ(tape.num_nodes(), replay ? 1u : 2u);
    tape.backward(ctx, y);
    std::vector<std::vector<float>> all{values(tape.take_grad(x))};
    for (Parameter* p : weights_.parameters()) all.push_back(values(p->grad));
    return all;
  };
  EXPECT_EQ(run(true), run(false));
  run(true);
  EXPECT_THAT(log_, ElementsAre("F a", "F b", "F a", "F b", "B b", "B a", "W b", "W a"));
}

TEST_F(TapeTest, AnUnusedOutputOfARecomputedSegmentHasNoGradient) {
  Tape tape;
  ctx_.tape = &tape;
  const Tensor x = tape.watch(vector({1, 2, 3}));
  const Segment segment = [&](Context& c, std::span<const Tensor> in) {
    return Tensors{square(c, in[0], weights_.a), square(c, in[0], weights_.b)};
  };
  const Tensors y = recompute(ctx_, "segment", segment, {x});
  tape.backward(ctx_, y[0]);
  EXPECT_THAT(values(tape.take_grad(x)), ElementsAre(2, 4, 6));
  EXPECT_FALSE(weights_.b.grad_written);
}

TEST_F(TapeTest, SliceOfARecordedTensorIsRefused) {
  Tape tape;
  const Tensor x = tape.watch(vector({1, 2, 3}));
  EXPECT_THROW(x.slice(0, 1), InternalError);
}

}  // namespace
}  // namespace trireme
