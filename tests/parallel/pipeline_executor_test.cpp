// The executor obeys its schedule: on ranks with clocks of their own, which passes move and messages carry,
// every schedule takes exactly the time of its simulation; gradients come from the right micro-batches and
// are told of once.
#include "parallel/pipeline_executor.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>

#include "comm/local/local_world.h"
#include "core/nn/buckets.h"
#include "core/nn/module.h"
#include "parallel/schedule/simulate.h"

namespace trireme {
namespace {

/// What passes take, in ticks: apart from each other, so that none can stand for another.
constexpr double kForward = 5, kInput = 7, kWeight = 3;

/// A rank's own time.
struct Clock {
  double now = 0.0;
  std::vector<TimedAction> passes;

  /// A pass of `ticks` on what was ready at `ready`; returns its end.
  double run(int rank, Action action, double ready, double ticks) {
    const double begin = std::max(now, ready);
    now = begin + ticks;
    passes.push_back({rank, action, begin, now});
    return now;
  }
};

struct Weights : Module {
  Parameter& w = add_parameter("w", {1}, Init::ones());
};

/// A stage y = 2 x whose passes take time on the clock of its rank. Messages are [2]: when they were ready,
/// and x (or its gradient). The loss of the last stage is y^2 / 2; dw += x dy, so a gradient that meets
/// another micro-batch's x shows.
class ClockOp : public Op {
 public:
  struct Place {
    int rank;
    int64_t stage, micro_batch;
    bool is_last, whole_backward;  // whole: both halves at once
  };
  ClockOp(Clock& clock, Parameter& w, Place place) : clock_(clock), parameter_(&w), place_(place) {}

  std::string_view name() const override { return "clock"; }
  std::span<Parameter* const> parameters() const override { return {&parameter_, 1}; }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    const float x = value(inputs[0]);
    saved.tensors = {inputs[0]};
    return {message(ctx, pass(ActionKind::forward, ready(inputs[0]), kForward), 2 * x)};
  }
  Tensors backward_input(Context& ctx, Saved& saved, Tensors dout) const override {
    const float dy = place_.is_last ? 2 * value(saved.tensors[0]) : value(dout[0]);
    const double begin = place_.is_last ? 0.0 : ready(dout[0]);
    const double end = place_.whole_backward ? pass(ActionKind::backward, begin, kInput + kWeight)
                                             : pass(ActionKind::backward_input, begin, kInput);
    saved.tensors.push_back(message(ctx, 0.0, dy));
    return {message(ctx, end, 2 * dy)};
  }
  void backward_weight(Context&, Saved& saved, std::span<const Tensor>) const override {
    if (!place_.whole_backward) pass(ActionKind::backward_weight, 0.0, kWeight);
    const bool add = parameter_->begin_accumulate();
    float& dw = parameter_->grad.data<float>()[0];
    dw = (add ? dw : 0.0F) + value(saved.tensors[0]) * value(saved.tensors[1]);
  }

 private:
  static double ready(const Tensor& t) { return static_cast<double>(t.data<float>()[0]); }
  static float value(const Tensor& t) { return t.data<float>()[1]; }
  static Tensor message(Context& ctx, double ready, float value) {
    Tensor t = ctx.empty({2});
    t.data<float>()[0] = static_cast<float>(ready);
    t.data<float>()[1] = value;
    return t;
  }
  double pass(ActionKind kind, double begin, double ticks) const {
    const Action action{kind, static_cast<uint16_t>(place_.stage), static_cast<uint16_t>(place_.micro_batch)};
    return clock_.run(place_.rank, action, begin, ticks);
  }

  Clock& clock_;
  Parameter* parameter_;
  Place place_;
};

struct CountingSink : GradientSink {
  explicit CountingSink(const Clock& clock) : clock(clock) {}
  void grad_ready(Parameter& p) override { told.emplace_back(&p, clock.passes.size()); }
  const Clock& clock;
  std::vector<std::pair<Parameter*, size_t>> told;  // with how many passes had begun
};

/// One rank of a pipeline of clocks; a weight a stage.
class ClockRank {
 public:
  ClockRank(Group& group, const Schedule& schedule)
      : rank_(group.rank()), engine_(make_cpu_backend(1)), ctx(engine_.context()), executor(schedule, group) {
    for (const int64_t stage : executor.stages()) {
      Weights& w = weights_[stage];
      buckets_.push_back(allocate_parameters(ctx, w.parameters(), 1));
    }
  }

  void run() {
    clock = Clock();
    sink.told.clear();
    for (auto& [stage, w] : weights_) w.w.grad_written = false;
    executor.run(ctx, {2}, DType::f32, forward(), &sink);
  }
  void prepare() {
    executor.rehearse(ctx, {2}, DType::f32, forward());
    executor.connect(ctx);
  }
  Tensor run_forward() { return executor.run_forward(ctx, {2}, DType::f32, forward()); }

  Parameter& weight(int64_t stage) { return weights_.at(stage).w; }
  /// Called before each forward.
  std::function<void(int64_t stage, int64_t micro_batch)> before_forward = [](int64_t, int64_t) {};

 private:
  StageForward forward() {
    const auto& mine = executor.schedule().ranks[static_cast<size_t>(rank_)];
    const bool whole = std::ranges::any_of(mine, [](Action a) { return a.kind == ActionKind::backward; });
    return [this, whole](Context& c, int64_t stage, int64_t micro_batch, const Tensor& received) {
      before_forward(stage, micro_batch);
      Tensor x = received;
      if (stage == 0) {
        x = c.zeros({2});
        x.data<float>()[1] = static_cast<float>(micro_batch + 1);
        if (c.tape) x = c.tape->watch(x);
      }
      const ClockOp::Place place{rank_, stage, micro_batch, stage + 1 == executor.num_stages(), whole};
      return apply(c, std::make_shared<ClockOp>(clock, weights_.at(stage).w, place), {x})[0];
    };
  }

  int rank_;
  Engine engine_;
  std::map<int64_t, Weights> weights_;
  std::vector<std::vector<Bucket>> buckets_;

 public:
  Context ctx;
  Clock clock;
  CountingSink sink{clock};
  PipelineExecutor executor;  // goes first: it may hold tensors of the engine
};

struct Case {
  std::string schedule;
  int ranks;
  int64_t chunks, micro_batches;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.schedule << " of " << c.ranks << " ranks, " << c.micro_batches << " micro-batches";
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string& name : schedule_names())
    for (const auto& [ranks, micro_batches] : {std::pair(1, 3), {2, 1}, {2, 5}, {3, 7}, {4, 8}}) {
      const int64_t chunks = chunks_of_schedule(name);
      all.push_back({name, ranks, chunks == 0 ? 2 : chunks, micro_batches});
    }
  return all;
}

class PipelineExecutorTest : public ::testing::TestWithParam<Case> {
 protected:
  Schedule schedule_ =
      make_schedule(GetParam().schedule, GetParam().ranks, GetParam().chunks, GetParam().micro_batches);
};

TEST_P(PipelineExecutorTest, TakesTheTimeOfItsSimulation) {
  const int ranks = GetParam().ranks;
  const PassTimes times = PassTimes::uniform(schedule_.num_stages(), kForward, kInput, kWeight);
  const Timeline expected = simulate(schedule_, times);
  std::vector<TimedAction> passes;
  std::mutex mutex;
  LocalWorld(ranks).run([&](Group& world) {
    ASSERT_EQ(world.size(), ranks);
    ClockRank rank(world, schedule_);
    for (int step = 0; step < 2; ++step) rank.run();  // the second finds the executor used
    const std::lock_guard lock(mutex);
    passes.insert(passes.end(), rank.clock.passes.begin(), rank.clock.passes.end());
  });
  const Timeline measured = make_timeline(std::move(passes), ranks);
  EXPECT_EQ(measured.actions, expected.actions);
  EXPECT_EQ(measured.bubble_share, expected.bubble_share);
}

TEST_P(PipelineExecutorTest, EveryStageHasTheGradientOfAllMicroBatchesAndIsToldOfOnce) {
  const int n = schedule_.num_stages();
  double expected = 0.0;  // sum over micro-batches of x dy = (m + 1) 2^s * (m + 1) 2^n 2^(n - 1 - s)
  for (int64_t m = 0; m < GetParam().micro_batches; ++m)
    expected += static_cast<double>((m + 1) * (m + 1)) * std::pow(2.0, 2 * n - 1);
  LocalWorld(GetParam().ranks).run([&](Group& world) {
    ClockRank rank(world, schedule_);
    rank.run();
    const auto& mine = schedule_.ranks[static_cast<size_t>(world.rank())];
    ASSERT_EQ(rank.sink.told.size(), rank.executor.stages().size());
    for (const int64_t stage : rank.executor.stages()) {
      Parameter& w = rank.weight(stage);
      EXPECT_EQ(w.grad.data<float>()[0], expected) << "stage " << stage;
      const auto told = std::ranges::find(rank.sink.told, &w, &std::pair<Parameter*, size_t>::first);
      ASSERT_NE(told, rank.sink.told.end()) << "stage " << stage;
      const auto last =
          std::ranges::find_if(mine.rbegin(), mine.rend(), [&](Action a) { return a.stage == stage; });
      EXPECT_EQ(told->second, static_cast<size_t>(mine.rend() - last)) << "the passes that were run before";
    }
  });
}

TEST_P(PipelineExecutorTest, ARehearsalRunsEveryActionAndLeavesNothingBehind) {
  LocalWorld(GetParam().ranks).run([&](Group& world) {
    ClockRank once(world, schedule_), rehearsed(world, schedule_);
    rehearsed.prepare();
    std::vector<Action> passes;
    for (const TimedAction& pass : rehearsed.clock.passes) passes.push_back(pass.action);
    std::vector<Action> expected = schedule_.ranks[static_cast<size_t>(world.rank())];
    if (schedule_.num_stages() == 1) std::erase_if(expected, [](const Action& a) { return a.micro_batch > 1; });
    EXPECT_EQ(passes, expected);
    once.run();
    rehearsed.run();
    EXPECT_EQ(rehearsed.clock.passes, once.clock.passes);
    EXPECT_EQ(rehearsed.sink.told.size(), once.sink.told.size());
    for (const int64_t stage : once.executor.stages())
      EXPECT_EQ(rehearsed.weight(stage).grad.data<float>()[0], once.weight(stage).grad.data<float>()[0]);
  });
}

TEST_P(PipelineExecutorTest, ForwardAloneGivesTheLastStageItsResult) {
  LocalWorld(GetParam().ranks).run([&](Group& world) {
    ClockRank rank(world, schedule_);
    const Tensor y = rank.run_forward();
    const int64_t last = rank.executor.num_stages() - 1;
    ASSERT_EQ(y.defined(), rank.executor.has_stage(last));
    if (!y.defined()) return;
    EXPECT_EQ(y.data<float>()[1], std::pow(2.0F, static_cast<float>(last + 1)));
  });
}

INSTANTIATE_TEST_SUITE_P(Schedules, PipelineExecutorTest, ::testing::ValuesIn(cases()), [](const auto& info) {
  std::string name =
      fmt::format("{}_{}ranks_{}micro", info.param.schedule, info.param.ranks, info.param.micro_batches);
  std::erase(name, '-');
  return name;
});

TEST(PipelineExecutorFailureTest, AStageThatThrowsEndsEveryRank) {
  std::atomic<int> ended = 0;
  const auto run = [&] {
    LocalWorld(3).run([&](Group& world) {
      ClockRank rank(world, make_schedule("1f1b", 3, 1, 4));
      rank.before_forward = [](int64_t stage, int64_t micro_batch) {
        if (stage == 1 && micro_batch == 2) throw ConfigError("stage 1 can't");
      };
      try {
        rank.run();
      } catch (const Error&) {
        ++ended;
        throw;
      }
    });
  };
  EXPECT_THAT(run, ::testing::ThrowsMessage<ConfigError>(::testing::HasSubstr("stage 1 can't")));
  EXPECT_EQ(ended, 3);
}

TEST(PipelineExecutorFailureTest, AScheduleForAnotherNumberOfRanksIsRefused) {
  LocalWorld(2).run([&](Group& world) {
    EXPECT_THROW(PipelineExecutor(make_schedule("1f1b", 3, 1, 4), world), InternalError);
  });
}

}  // namespace
}  // namespace trireme
