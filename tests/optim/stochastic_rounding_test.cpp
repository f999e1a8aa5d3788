// bf16 weights without f32 masters: rounding is right on average, to a neighbour, and the same for every layout.
#include "optim/stochastic_rounding.h"

#include <gmock/gmock.h>

#include <bit>
#include <cmath>

#include "tests/optim/optim_world.h"

namespace trireme::testing {
namespace {

constexpr StochasticRounding kRounding{.seed = 11};

uint32_t bits_of(float x) { return std::bit_cast<uint32_t>(x); }
float from_bf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

TEST(RoundAtRandom, GoesUpForExactlyTheShareThatWasCutOff) {
  for (const float value : {1.0f, 1.001f, -1.001f, 3.14159f, -1e-3f, 1e30f, 1e-30f, 1e-42f, -1e-45f, 3.4028e38f}) {
    const uint32_t low = bits_of(value) & 0xffffu;
    const auto below = static_cast<uint16_t>(bits_of(value) >> 16);
    uint32_t up = 0;
    for (uint32_t random = 0; random < 0x10000u; ++random) {
      const uint16_t got = round_at_random(bits_of(value), random);
      ASSERT_TRUE(got == below || got == below + 1) << value;
      up += got != below;
    }
    EXPECT_EQ(up, low) << value;
  }
}

TEST(RoundAtRandom, LeavesWhatIsNoNumberAsItIs) {
  for (const uint32_t random : {0u, 1u, 0x8000u, 0xffffu}) {
    EXPECT_EQ(from_bf16(round_at_random(bits_of(INFINITY), random)), INFINITY);
    EXPECT_EQ(from_bf16(round_at_random(bits_of(-INFINITY), random)), -INFINITY);
    for (const uint32_t nan : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu})
      EXPECT_TRUE(std::isnan(from_bf16(round_at_random(nan, random)))) << nan;
  }
}

TEST(RoundAtRandom, BitsOfABlockAreAllUsedOnce) {
  const std::array<uint32_t, 4> block{0x00010000, 0x00030002, 0x00050004, 0x00070006};
  for (int64_t e = 0; e < kRoundedOfBlock; ++e) EXPECT_EQ(rounding_bits(block, 5 * kRoundedOfBlock + e), static_cast<uint32_t>(e));
}

/// A run of one optimizer; masters where there is no rounding.
struct Training {
  Training(const OptimConfig& config, const WorldOptions& options, std::optional<StochasticRounding> rounding = kRounding)
      : world(options), optimizer(make_optimizer(config, rounding)) {}
  void attach() { optimizer->attach(world.ctx, world.shards); }
  void train(int first, int last) {
    for (int k = first; k <= last; ++k)
      world.step(*optimizer, k, {.multiplier = k % 3 ? 1.0f : 0.25f, .apply = k % 7 ? 1.0f : 0.0f, .lr = 0.02f / static_cast<float>(k)});
  }
  World world;
  std::unique_ptr<Optimizer> optimizer;
};

class StochasticRoundingTest : public ::testing::TestWithParam<const char*> {
 protected:
  static OptimConfig config() { return config_of(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Optimizers, StochasticRoundingTest, ::testing::Values("adamw", "sgd", "lion"),
                         [](const auto& info) { return std::string(info.param); });

// Each step moves a weight of 1.25 by 1e-4, an 78th of bf16's spacing there. A weight's path is a sum of 200 independent
// roundings of variance below spacing * 1e-4, so the mean of 39,130 weights has a standard deviation of 6.4e-5: five of them allowed.
TEST_P(StochasticRoundingTest, UpdatesFarBelowTheSpacingArriveOnAverage) {
  constexpr double kStep = 1e-4, kSpacing = 0x1p-7;
  constexpr int kSteps = 200;
  ASSERT_EQ(bf16(1.25f + static_cast<float>(kStep)).bits, bf16(1.25f).bits);  // to nearest, no step would move anything
  OptimConfig c = config();
  c.momentum = c.weight_decay = 0.0;
  Training run(c, {.dtype = DType::bf16});
  for (const Bucket& bucket : run.world.buckets) {
    for (bf16& w : bucket.data.span<bf16>()) w = bf16(1.25f);
    for (float& g : bucket.grad.span<float>()) g = -1.0f;
  }
  run.attach();
  for (int k = 0; k < kSteps; ++k)
    run.optimizer->step(run.world.ctx, run.world.shards, make_control(run.world.ctx, {.lr = static_cast<float>(kStep)}));
  const std::span<bf16> weights = run.world["head.weight"].data.span<bf16>();
  double sum = 0.0;
  for (const bf16 w : weights) sum += static_cast<float>(w);
  const auto n = static_cast<double>(weights.size());
  EXPECT_NEAR(sum / n, 1.25 + kSteps * kStep, 5 * std::sqrt(kSteps * kStep * kSpacing / n));
}

// Weight decay alone, from the weight itself: on average each is multiplied by the same as in f32.
TEST_P(StochasticRoundingTest, DecayArrivesOnAverage) {
  constexpr int kSteps = 100;
  Training run(config(), {.dtype = DType::bf16});
  Parameter& p = run.world["head.weight"];
  double before = 0.0, squares = 0.0, after = 0.0;
  for (bf16& w : p.data.span<bf16>()) {
    w = bf16(std::abs(static_cast<float>(w)) + 0.25f);
    before += static_cast<float>(w);
    squares += static_cast<double>(static_cast<float>(w)) * static_cast<float>(w);
  }
  run.attach();
  for (int k = 0; k < kSteps; ++k)  // gradients are zero
    run.optimizer->step(run.world.ctx, run.world.shards, make_control(run.world.ctx, {.lr = 1e-3f}));
  for (const bf16 w : p.data.span<bf16>()) after += static_cast<float>(w);
  const double shrink = std::pow(1.0 - 1e-3 * 0.1, kSteps);
  // A rounding's variance is below spacing * update <= w 2^-7 * w 1e-4.
  EXPECT_NEAR(after, shrink * before, 5 * std::sqrt(kSteps * 0x1p-7 * 1e-4 * squares));
  EXPECT_LT(after, before - 0.5 * (1.0 - shrink) * before);
}

// The first step from the same bf16 values: f32's result, cut to bf16 and one spacing up where the random bits say so.
TEST_P(StochasticRoundingTest, AStepIsThatOfF32RoundedToANeighbour) {
  Training full(config(), {.dtype = DType::f32}, {}), rounded(config(), {.dtype = DType::bf16, .split = true});
  for (size_t i = 0; i < full.world.parameters.size(); ++i) {
    const std::span<bf16> from = rounded.world.parameters[i].data.span<bf16>();
    for (size_t e = 0; e < from.size(); ++e) full.world.parameters[i].data.span<float>()[e] = static_cast<float>(from[e]);
  }
  full.attach(), rounded.attach();
  full.train(1, 1), rounded.train(1, 1);
  int up = 0, all = 0;
  for (size_t i = 0; i < full.world.parameters.size(); ++i) {
    const Parameter& p = full.world.parameters[i];
    const RandomStream stream = make_stream(kRounding.seed, hash_name("rounding of " + p.name), /*step=*/1);
    for (int64_t e = 0; e < p.shape.numel(); ++e) {
      const uint32_t want = bits_of(p.data.data<float>()[e]);
      const uint16_t got = rounded.world.parameters[i].data.data<bf16>()[e].bits;
      const uint32_t random = rounding_bits(stream.block(static_cast<uint64_t>(e / kRoundedOfBlock)), e);
      ASSERT_EQ(got, round_at_random(want, random)) << p.name << "[" << e << "]";
      ASSERT_TRUE(got == want >> 16 || got == (want >> 16) + 1) << p.name << "[" << e << "]";
      up += got != want >> 16;
      ++all;
    }
  }
  EXPECT_GT(up, all / 3);
  EXPECT_LT(up, 2 * all / 3);
}

TEST_P(StochasticRoundingTest, ThreadsShardsAndBucketsChangeNoBit) {
  Training reference(config(), {.dtype = DType::bf16}), again(config(), {.dtype = DType::bf16}),
      parts(config(), {.threads = 3, .dtype = DType::bf16, .split = true}), other(config(), {.dtype = DType::bf16});
  std::vector<Parameter*> all;
  for (Parameter& p : other.world.parameters) all.push_back(&p);
  other.world.buckets = plan_buckets(all, 1 << 30, kParameterAlign);  // one bucket of all
  allocate_buckets(other.world.ctx, other.world.buckets, DType::bf16);
  init_parameters(other.world.ctx, all, 7);
  ASSERT_EQ(other.world.buckets.size(), 1u);
  ASSERT_GT(reference.world.buckets.size(), 1u);
  other.world.shards = {make_shard(other.world.buckets[0], 0, other.world.buckets[0].numel)};
  for (Training* run : {&reference, &again, &parts, &other}) run->attach(), run->train(1, 9);
  for (Training* run : {&again, &parts, &other})
    for (size_t i = 0; i < all.size(); ++i)
      EXPECT_EQ(std::memcmp(run->world.parameters[i].data.raw(), reference.world.parameters[i].data.raw(),
                            reference.world.parameters[i].data.bytes()), 0)
          << run->world.parameters[i].name;
  Training seed(config(), {.dtype = DType::bf16}, StochasticRounding{12});
  seed.attach(), seed.train(1, 9);
  EXPECT_NE(seed.world.weights(), reference.world.weights());
}

TEST_P(StochasticRoundingTest, SkippedStepChangesNoBitAndPaddingStaysZero) {
  Training run(config(), {.dtype = DType::bf16});
  run.attach();
  run.train(1, 3);
  const auto weights = run.world.weights();
  const auto state = World::bits(run.optimizer->state());
  for (Shard& shard : run.world.shards)
    for (float& g : shard.grad.span<float>()) g = NAN;
  run.optimizer->step(run.world.ctx, run.world.shards, make_control(run.world.ctx, {.multiplier = NAN, .apply = 0.0f, .lr = 1.0f}));
  EXPECT_EQ(run.world.weights(), weights);
  EXPECT_EQ(World::bits(run.optimizer->state()), state);
  for (const Bucket& bucket : run.world.buckets) {
    int64_t held = 0, nonzero = 0;
    for (const BucketEntry& e : bucket.entries) held += e.parameter->shape.numel();
    for (const bf16 w : bucket.data.span<bf16>()) nonzero += w.bits != 0;
    EXPECT_LE(nonzero, held);
  }
}

TEST_P(StochasticRoundingTest, ResumesBitForBit) {
  Training whole(config(), {.dtype = DType::bf16}), resumed(config(), {.dtype = DType::bf16});
  whole.attach(), whole.train(1, 5);
  resumed.attach();
  const auto copy = [](const Tensor& to, const Tensor& from) { std::memcpy(to.raw(), from.raw(), from.bytes()); };
  for (size_t b = 0; b < whole.world.buckets.size(); ++b) copy(resumed.world.buckets[b].data, whole.world.buckets[b].data);
  const OptimizerState to = resumed.optimizer->state(), from = whole.optimizer->state();
  for (size_t i = 0; i < to.flat.size(); ++i) copy(to.flat[i].values, from.flat[i].values);
  for (size_t i = 0; i < to.scalars.size(); ++i) copy(to.scalars[i].value, from.scalars[i].value);
  whole.train(6, 9), resumed.train(6, 9);
  EXPECT_EQ(resumed.world.weights(), whole.world.weights());
  EXPECT_EQ(World::bits(resumed.optimizer->state()), World::bits(whole.optimizer->state()));
}

/// A parameter of [6, 10, 4] or a part of it, trained three steps with the whole one's gradients.
std::vector<uint16_t> trained_part(const Placement& placement, const std::vector<int64_t>& elements, Shape shape) {
  Engine engine(make_cpu_backend(1));
  register_optimizer_kernels(engine.backend());
  Context ctx = engine.context();
  Parameter before, p;  // something in front, so that the shard's elements are not the parameter's
  before.name = "before", before.shape = {5};
  p.name = "split", p.shape = shape, p.placement = placement, p.init = Init::normal(0.5f);
  std::array<Parameter*, 2> all{&p, &before};
  std::vector<Bucket> buckets = plan_buckets(all, 1 << 20);
  allocate_buckets(ctx, buckets, DType::bf16);
  init_parameters(ctx, all, 7);
  std::vector<Shard> shards;
  for (const Bucket& b : buckets)  // cut inside of the parameter, and of a row
    for (const int64_t begin : {int64_t{0}, int64_t{32}})
      shards.push_back(make_shard(b, begin, begin == 0 ? int64_t{32} : b.numel));
  const auto optimizer = make_optimizer(config_of("adamw"), kRounding);
  optimizer->attach(ctx, shards);
  for (int step = 1; step <= 3; ++step) {
    for (size_t i = 0; i < elements.size(); ++i)
      p.grad.span<float>()[i] = std::sin(static_cast<float>(elements[i] * step) + 0.5f);
    optimizer->step(ctx, shards, make_control(ctx, {.lr = 0.01f}));
  }
  std::vector<uint16_t> bits;
  for (const bf16 w : p.data.span<bf16>()) bits.push_back(w.bits);
  return bits;
}

TEST(StochasticRounding, PartsOfASplitParameterRoundAsTheWhole) {
  std::vector<int64_t> all(6 * 10 * 4);
  for (size_t e = 0; e < all.size(); ++e) all[e] = static_cast<int64_t>(e);
  const std::vector<uint16_t> whole = trained_part({}, all, {6, 10, 4});
  const std::vector<std::pair<Placement, Shape>> parts{
      {Placement::split(0, 6, 2, 5), {3, 10, 4}},
      {{.dim = 0, .global = 6, .ranges = {{0, 1}, {3, 4}, {5, 6}}}, {3, 10, 4}},
      {Placement::split(1, 10, 3, 8), {6, 5, 4}},
      {Placement::split(2, 4, 1, 4), {6, 10, 3}},
  };
  for (const auto& [placement, shape] : parts) {
    std::vector<int64_t> elements;
    for (const int64_t e : all) {
      const int64_t at = placement.dim == 0 ? e / 40 : placement.dim == 1 ? e / 4 % 10 : e % 4;
      if (std::ranges::any_of(placement.ranges, [&](const auto& r) { return r.begin <= at && at < r.end; })) elements.push_back(e);
    }
    const std::vector<uint16_t> part = trained_part(placement, elements, shape);
    ASSERT_EQ(part.size(), elements.size());
    for (size_t i = 0; i < part.size(); ++i)
      ASSERT_EQ(part[i], whole[static_cast<size_t>(elements[i])]) << "dim " << placement.dim << ", element " << elements[i];
  }
}

TEST(StochasticRounding, KeepsNoMasters) {
  Training run(config_of("adamw"), {.dtype = DType::bf16});
  const auto& stats = run.world.engine.allocator().stats();
  const size_t before = stats.current(MemoryClass::optimizer);
  run.attach();
  int64_t elements = 0;
  for (const Bucket& bucket : run.world.buckets) elements += bucket.numel;
  EXPECT_LT(stats.current(MemoryClass::optimizer) - before, static_cast<size_t>(8 * elements + 8192));  // 12 with masters
  for (const auto& s : run.optimizer->state().flat) EXPECT_NE(s.slot, "master");
}

TEST(StochasticRounding, AdafactorRefuses) {
  EXPECT_THAT([] { make_optimizer(config_of("adafactor"), kRounding); },
              ::testing::ThrowsMessage<ConfigError>(::testing::HasSubstr("precision.master: false works with adamw, sgd and lion")));
}

}  // namespace
}  // namespace trireme::testing
