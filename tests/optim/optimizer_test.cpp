// Each optimizer against its rule in double precision, and what all of them promise: a skipped step changes
// no bit, threads and shards do not matter, a run resumes bit for bit.
#include "optim/optimizer.h"

#include <gmock/gmock.h>

#include "tests/optim/optim_world.h"
#include "tests/optim/reference.h"

namespace trireme::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct Case {
  std::string title;
  OptimConfig config;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.title;
}

Case make_case(const std::string& title, const std::string& kind, double momentum = 0.9,
               bool nesterov = false) {
  Case c{title, config_of(kind)};
  c.config.momentum = momentum;
  c.config.nesterov = nesterov;
  return c;
}

class EveryOptimizer : public ::testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Optimizers, EveryOptimizer,
                         ::testing::Values(make_case("adamw", "adamw"), make_case("sgd", "sgd"),
                                           make_case("plain_sgd", "sgd", 0.0),
                                           make_case("nesterov", "sgd", 0.9, true), make_case("lion", "lion"),
                                           make_case("adafactor", "adafactor")),
                         [](const auto& info) { return info.param.title; });

// The weights that a run of `steps` ends with, some of its steps clipped and one in seven skipped.
std::unique_ptr<Optimizer> train(World& world, const OptimConfig& config, int steps) {
  auto optimizer = make_optimizer(config);
  optimizer->attach(world.ctx, world.shards);
  for (int k = 1; k <= steps; ++k)
    world.step(*optimizer, k,
               {.multiplier = k % 3 ? 1.0f : 0.25f, .apply = k % 7 ? 1.0f : 0.0f, .lr = 0.02f / k});
  return optimizer;
}

TEST_P(EveryOptimizer, FollowsItsRuleInDoublePrecision) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    World world({.dtype = dtype});
    std::vector<Reference> references;
    for (const Parameter& p : world.parameters) references.emplace_back(GetParam().config, p);
    const auto optimizer = make_optimizer(GetParam().config);
    optimizer->attach(world.ctx, world.shards);
    for (int k = 1; k <= 50; ++k) {
      const StepControl control{.multiplier = k % 3 ? 1.0f : 0.25f, .lr = 0.01f * static_cast<float>(k % 5)};
      world.step(*optimizer, k, control);
      for (size_t i = 0; i < references.size(); ++i)
        references[i].step(world.parameters[i].grad.span<float>(), control.multiplier, control.lr);
    }
    for (size_t i = 0; i < references.size(); ++i)
      for (size_t e = 0; e < references[i].w.size(); ++e) {
        const double want = references[i].w[e];
        const Tensor& data = world.parameters[i].data;
        const double got = dtype == DType::f32 ? data.span<float>()[e] : float(data.span<bf16>()[e]);
        // bf16: the weights are those of an f32 master rounded once, not the sum of 50 roundings.
        const double tolerance =
            dtype == DType::f32 ? 2e-6 + 2e-5 * std::abs(want) : 1e-5 + std::abs(want) / 255;
        ASSERT_NEAR(got, want, tolerance)
            << world.parameters[i].name << "[" << e << "] as " << name_of(dtype);
      }
  }
}

TEST_P(EveryOptimizer, SkippedStepChangesNoBit) {
  World world({.dtype = DType::bf16});
  const auto optimizer = train(world, GetParam().config, 3);
  const auto weights = world.weights();
  const auto state = World::bits(optimizer->state());
  for (Shard& shard : world.shards)
    for (float& g : shard.grad.span<float>()) g = NAN;
  optimizer->step(world.ctx, world.shards,
                  make_control(world.ctx, {.multiplier = NAN, .apply = 0.0f, .lr = 1.0f}));
  EXPECT_EQ(world.weights(), weights);
  EXPECT_EQ(World::bits(optimizer->state()), state);
  world.step(*optimizer, 4, {.lr = 0.01f});
  EXPECT_NE(world.weights(), weights);
  EXPECT_NE(World::bits(optimizer->state()), state);
}

TEST_P(EveryOptimizer, NumberOfThreadsChangesNoBit) {
  World one({.threads = 1}), two({.threads = 2}), three({.threads = 3});
  const auto state = World::bits(train(one, GetParam().config, 12)->state());
  EXPECT_EQ(World::bits(train(two, GetParam().config, 12)->state()), state);
  EXPECT_EQ(World::bits(train(three, GetParam().config, 12)->state()), state);
  EXPECT_EQ(two.weights(), one.weights());
  EXPECT_EQ(three.weights(), one.weights());
}

TEST_P(EveryOptimizer, ResumesBitForBit) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    World whole({.dtype = dtype}), resumed({.dtype = dtype});
    const auto first = train(whole, GetParam().config, 5);
    const auto second = make_optimizer(GetParam().config);
    second->attach(resumed.ctx, resumed.shards);
    for (size_t b = 0; b < whole.buckets.size(); ++b)
      std::memcpy(resumed.buckets[b].data.raw(), whole.buckets[b].data.raw(), whole.buckets[b].data.bytes());
    const auto copy = [](const Tensor& to, const Tensor& from) {
      std::memcpy(to.raw(), from.raw(), from.bytes());
    };
    const OptimizerState to = second->state(), from = first->state();
    ASSERT_EQ(to.flat.size(), from.flat.size());
    for (size_t i = 0; i < to.flat.size(); ++i) copy(to.flat[i].values, from.flat[i].values);
    for (size_t i = 0; i < to.whole.size(); ++i) copy(to.whole[i].values, from.whole[i].values);
    for (size_t i = 0; i < to.scalars.size(); ++i) copy(to.scalars[i].value, from.scalars[i].value);
    for (int k = 6; k <= 9; ++k) {
      whole.step(*first, k, {.lr = 0.01f});
      resumed.step(*second, k, {.lr = 0.01f});
    }
    EXPECT_EQ(resumed.weights(), whole.weights());
    EXPECT_EQ(World::bits(second->state()), World::bits(first->state()));
  }
}

TEST_P(EveryOptimizer, DecayActsOnItsGroupsAlone) {
  World world;
  OptimConfig config = GetParam().config;
  config.no_decay = {"wte", "kernel"};
  std::map<std::string, std::vector<float>> before;
  for (const Parameter& p : world.parameters)
    before[p.name].assign(p.data.data<float>(), p.data.data<float>() + p.shape.numel());
  const auto optimizer = make_optimizer(config);
  optimizer->attach(world.ctx, world.shards);
  for (Shard& shard : world.shards)
    world.engine.backend().fill_zero(shard.grad.raw(), shard.grad.bytes(), *world.ctx.stream);
  optimizer->step(world.ctx, world.shards,
                  make_control(world.ctx, {.lr = 0.5f}));  // decay alone: the gradient is zero
  for (const Parameter& p : world.parameters) {
    const bool decays_here = p.name == "h.0.mlp.up.weight" || p.name == "head.weight";
    for (size_t e = 0; e < before[p.name].size(); ++e)
      ASSERT_FLOAT_EQ(p.data.span<float>()[e], before[p.name][e] * (decays_here ? 0.95f : 1.0f)) << p.name;
  }
}

TEST_P(EveryOptimizer, PaddingStaysZero) {
  World world;
  train(world, GetParam().config, 5);
  for (const Bucket& bucket : world.buckets) {
    std::vector<bool> held(static_cast<size_t>(bucket.numel));
    for (const BucketEntry& e : bucket.entries)
      std::fill_n(held.begin() + e.begin, e.parameter->shape.numel(), true);
    for (size_t i = 0; i < held.size(); ++i)
      if (!held[i]) {
        ASSERT_EQ(bucket.data.span<float>()[i], 0.0f);
      }
  }
}

TEST(Optimizer, ElementWiseRulesDoNotDependOnShards) {
  for (const char* kind : {"adamw", "sgd", "lion"}) {
    World whole, split({.threads = 2, .split = true});
    ASSERT_EQ(split.shards.size(), 2 * whole.shards.size());
    train(whole, config_of(kind), 10);
    train(split, config_of(kind), 10);
    EXPECT_EQ(split.weights(), whole.weights()) << kind;
  }
}

TEST(Optimizer, AdafactorRefusesPartsOfParameters) {
  World split({.split = true});
  const auto optimizer = make_optimizer(config_of("adafactor"));
  EXPECT_THAT([&] { optimizer->attach(split.ctx, split.shards); },
              ThrowsMessage<ConfigError>(HasSubstr("use adamw, sgd or lion")));
  World tensor_parallel;
  tensor_parallel["wte.weight"].placement = Placement::split(0, 1000, 500, 1000);
  EXPECT_THAT(
      [&] { make_optimizer(config_of("adafactor"))->attach(tensor_parallel.ctx, tensor_parallel.shards); },
      ThrowsMessage<ConfigError>(HasSubstr("of wte.weight[1000")));
}

TEST(Optimizer, AdafactorStateIsSmall) {
  World world;
  const auto optimizer = make_optimizer(config_of("adafactor"));
  optimizer->attach(world.ctx, world.shards);
  std::map<std::string, Shape> shapes;
  for (const auto& s : optimizer->state().whole) shapes[s.parameter->name + "/" + s.slot] = s.values.shape();
  EXPECT_EQ(shapes.at("head.weight/exp_avg_sq_row"), (Shape{1, 130}));
  EXPECT_EQ(shapes.at("head.weight/exp_avg_sq_col"), (Shape{1, 301}));
  EXPECT_EQ(shapes.at("kernels/exp_avg_sq_row"), (Shape{3, 5}));
  EXPECT_EQ(shapes.at("kernels/exp_avg_sq_col"), (Shape{3, 7}));
  EXPECT_EQ(shapes.at("h.0.ln.weight/exp_avg_sq"), (Shape{1, 19}));
}

TEST(Optimizer, BiasCorrectionCountsAppliedSteps) {
  World skipped, plain;
  const auto a = make_optimizer(config_of("adamw")), b = make_optimizer(config_of("adamw"));
  a->attach(skipped.ctx, skipped.shards);
  b->attach(plain.ctx, plain.shards);
  for (int k = 1; k <= 5; ++k) skipped.step(*a, k, {.apply = k == 5 ? 1.0f : 0.0f, .lr = 0.01f});
  plain.step(*b, 5, {.lr = 0.01f});
  EXPECT_EQ(skipped.weights(), plain.weights());
  EXPECT_EQ(a->state().scalars.at(0).value.item<int64_t>(), 1);
}

TEST(Optimizer, StateIsCountedAsOptimizerMemory) {
  World world;
  const size_t before = world.engine.allocator().stats().current(MemoryClass::optimizer);
  const auto optimizer = make_optimizer(config_of("adamw"));
  optimizer->attach(world.ctx, world.shards);
  int64_t elements = 0;
  for (const Bucket& bucket : world.buckets) elements += bucket.numel;
  const size_t bytes = world.engine.allocator().stats().current(MemoryClass::optimizer) - before;
  EXPECT_GE(bytes, static_cast<size_t>(8 * elements));
  EXPECT_LT(bytes, static_cast<size_t>(8 * elements + 4096));
}

TEST(MakeOptimizer, SaysWhatIsWrong) {
  const auto error_of = [](auto change) -> std::string {
    OptimConfig config;
    change(config);
    try {
      make_optimizer(config);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(error_of([](OptimConfig&) {}), "no error");
  EXPECT_THAT(error_of([](OptimConfig& c) { c.kind = "adamv"; }), HasSubstr("did you mean adamw?"));
  EXPECT_THAT(error_of([](OptimConfig& c) { c.kind = "quasi-newton"; }),
              HasSubstr("none of adamw, sgd, lion, adafactor"));
  EXPECT_THAT(error_of([](OptimConfig& c) { c.lr = -1.0; }), HasSubstr("optim.lr"));
  EXPECT_THAT(error_of([](OptimConfig& c) { c.lr = NAN; }), HasSubstr("optim.lr"));
  EXPECT_THAT(error_of([](OptimConfig& c) { c.betas[0] = 1.0; }), HasSubstr("optim.betas[0]"));
  EXPECT_THAT(error_of([](OptimConfig& c) { c.betas[1] = 1.5; }), HasSubstr("optim.betas[1]"));
  EXPECT_THAT(error_of([](OptimConfig& c) { c.eps = 0.0; }), HasSubstr("optim.eps"));
  EXPECT_THAT(error_of([](OptimConfig& c) { c.momentum = -0.1; }), HasSubstr("optim.momentum"));
  EXPECT_THAT(error_of([](OptimConfig& c) { c.weight_decay = -0.1; }), HasSubstr("optim.weight_decay"));
  EXPECT_THAT(error_of([](OptimConfig& c) { c.schedule.kind = "cosin"; }), HasSubstr("did you mean cosine?"));
  EXPECT_THAT(error_of([](OptimConfig& c) { c.kind = "sgd", c.nesterov = true, c.momentum = 0.0; }),
              HasSubstr("optim.nesterov"));
}

}  // namespace
}  // namespace trireme::testing
