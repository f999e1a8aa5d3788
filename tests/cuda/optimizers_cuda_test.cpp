// The optimizers and the guard on a GPU against the host's: the same rules within f32's rounding, the same decisions, and
// not a bit changed by a skipped step or outside of the runs.
#include <array>
#include <bit>
#include <cmath>

#include "optim/clip.h"
#include "optim/split_master.h"
#include "tests/cuda/gpu.h"
#include "tests/optim/optim_world.h"

namespace trireme::testing {
namespace {

constexpr double kEpsilon = 0x1p-23;  // of f32

std::unique_ptr<Backend> gpu() { return make_cuda_backend({.tune = false}); }

/// The bytes of a tensor of any device.
std::vector<std::byte> bytes_of(Context& ctx, const Tensor& t) {
  std::vector<std::byte> bytes(t.bytes());
  ctx.backend->copy(bytes.data(), t.raw(), t.bytes(), *ctx.stream);
  ctx.stream->synchronize();
  return bytes;
}
template <class T>
std::vector<T> values_of(Context& ctx, const Tensor& t) {
  const std::vector<std::byte> bytes = bytes_of(ctx, t);
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(static_cast<void*>(values.data()), bytes.data(), bytes.size());
  return values;
}

/// An array of an optimizer's state; masters that are split, put together.
std::vector<float> values_of(World& world, const OptimizerState::Flat& s) {
  if (s.values.dtype() == DType::f32) return values_of<float>(world.ctx, s.values);
  const auto data = values_of<bf16>(world.ctx, world.shards.at(s.shard).data);
  const auto rest = values_of<uint16_t>(world.ctx, s.values);
  std::vector<float> masters;
  for (size_t i = 0; i < data.size(); ++i) masters.push_back(std::bit_cast<float>(join_master(data[i].bits, rest[i])));
  return masters;
}

/// The arrays of an optimizer's state that are f32, by name, and the count of applied steps.
struct StateCopy {
  std::vector<std::pair<std::string, std::vector<float>>> arrays;
  int64_t applied_steps = 0;
};
StateCopy copy_of(World& world, const OptimizerState& state) {
  StateCopy copy;
  Context& ctx = world.ctx;
  for (const auto& s : state.flat) copy.arrays.emplace_back(s.slot, values_of(world, s));
  for (const auto& s : state.whole) copy.arrays.emplace_back(s.parameter->name + " " + s.slot, values_of<float>(ctx, s.values));
  copy.applied_steps = values_of<int64_t>(ctx, state.scalars.at(0).value).at(0);
  return copy;
}
/// Every bit of weights and state.
std::vector<std::byte> bits_of(World& world, const OptimizerState& state) {
  std::vector<std::byte> all;
  const auto append = [&](const Tensor& t) {
    const auto bytes = bytes_of(world.ctx, t);
    all.insert(all.end(), bytes.begin(), bytes.end());
  };
  for (const Bucket& bucket : world.buckets) append(bucket.data);
  for (const auto& s : state.flat) append(s.values);
  for (const auto& s : state.whole) append(s.values);
  for (const auto& s : state.scalars) append(s.value);
  return all;
}

/// Element by element within `roundings` of f32's, of the element and of the array's typical size: sums cancel.
void expect_close(const std::vector<float>& got, const std::vector<float>& want, double roundings, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  double squares = 0.0;
  for (const float x : want) squares += static_cast<double>(x) * x;
  const double typical = std::sqrt(squares / static_cast<double>(std::max<size_t>(1, want.size())));
  for (size_t i = 0; i < want.size(); ++i)
    ASSERT_NEAR(got[i], want[i], roundings * kEpsilon * (std::abs(want[i]) + typical)) << what << "[" << i << "]";
}

struct Case {
  std::string title;
  OptimConfig config;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.title; }

Case make_case(const std::string& title, const std::string& kind, double momentum = 0.9, bool nesterov = false) {
  Case c{title, config_of(kind)};
  c.config.momentum = momentum;
  c.config.nesterov = nesterov;
  return c;
}

class OptimizersCuda : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override { TRIREME_NEEDS_GPUS(1); }

  /// Ten steps, every third clipped; the seventh is skipped.
  static void train(World& world, Optimizer& optimizer) {
    optimizer.attach(world.ctx, world.shards);
    for (int k = 1; k <= 10; ++k)
      world.step(optimizer, k,
                 {.multiplier = k % 3 ? 1.0f : 0.25f, .apply = k == 7 ? 0.0f : 1.0f, .lr = 0.02f / static_cast<float>(k)});
  }
  static bool can_split() { return GetParam().config.kind != "adafactor"; }
};

INSTANTIATE_TEST_SUITE_P(Optimizers, OptimizersCuda,
                         ::testing::Values(make_case("adamw", "adamw"), make_case("sgd", "sgd"), make_case("plain_sgd", "sgd", 0.0),
                                           make_case("nesterov", "sgd", 0.9, true), make_case("lion", "lion"),
                                           make_case("adafactor", "adafactor")),
                         [](const auto& info) { return info.param.title; });

TEST_P(OptimizersCuda, TenStepsAreThoseOfTheHost) {
  // Adafactor divides by sums over whole parameters, the longest of 130 * 301 elements: their order differs by up to the
  // root of that many roundings.
  const double roundings = can_split() ? 32.0 : 32.0 + std::sqrt(130.0 * 301.0);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const bool split : {false, true}) {
      if (split && !can_split()) continue;
      SCOPED_TRACE(std::string(name_of(dtype)) + (split ? " in parts" : " whole"));
      World host({.dtype = dtype, .split = split}), device({.dtype = dtype, .split = split}, gpu());
      const auto a = make_optimizer(GetParam().config), b = make_optimizer(GetParam().config);
      train(host, *a);
      train(device, *b);
      const StateCopy want = copy_of(host, a->state()), got = copy_of(device, b->state());
      EXPECT_EQ(got.applied_steps, 9);
      ASSERT_EQ(got.arrays.size(), want.arrays.size());
      for (size_t i = 0; i < want.arrays.size(); ++i) {
        ASSERT_EQ(got.arrays[i].first, want.arrays[i].first);
        expect_close(got.arrays[i].second, want.arrays[i].second, roundings, want.arrays[i].first);
      }
      if (dtype == DType::f32)
        for (size_t i = 0; i < host.buckets.size(); ++i)
          expect_close(values_of<float>(device.ctx, device.buckets[i].data), values_of<float>(host.ctx, host.buckets[i].data),
                       roundings, "weights of bucket " + std::to_string(i));
    }
}

TEST_P(OptimizersCuda, TheDataIsTheMasterRounded) {
  const auto check = [&]<class Low>(DType dtype, Low) {
    World world({.dtype = dtype}, gpu());
    const auto optimizer = make_optimizer(GetParam().config);
    train(world, *optimizer);
    size_t seen = 0;
    for (const auto& s : optimizer->state().flat) {
      if (s.slot != "master") continue;
      const auto master = values_of(world, s);
      const auto data = values_of<Low>(world.ctx, world.shards.at(s.shard).data);
      ASSERT_EQ(data.size(), master.size());
      for (size_t i = 0; i < data.size(); ++i) ASSERT_EQ(data[i].bits, Low(master[i]).bits) << name_of(dtype) << " " << i;
      ++seen;
    }
    EXPECT_EQ(seen, world.shards.size());
  };
  check(DType::bf16, bf16());
  check(DType::f16, f16());
}

TEST_P(OptimizersCuda, SkippedStepChangesNoBit) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    World world({.dtype = dtype}, gpu());
    const auto optimizer = make_optimizer(GetParam().config);
    train(world, *optimizer);
    const auto before = bits_of(world, optimizer->state());
    for (Shard& shard : world.shards) {
      const std::vector<float> bad(static_cast<size_t>(shard.grad.numel()), NAN);
      world.ctx.backend->copy(shard.grad.raw(), bad.data(), shard.grad.bytes(), *world.ctx.stream);
    }
    optimizer->step(world.ctx, world.shards, make_control(world.ctx, {.multiplier = NAN, .apply = 0.0f, .lr = 1.0f}));
    EXPECT_TRUE(bits_of(world, optimizer->state()) == before) << name_of(dtype);
    world.step(*optimizer, 11, {.lr = 0.01f});
    EXPECT_FALSE(bits_of(world, optimizer->state()) == before) << name_of(dtype);
  }
}

TEST_P(OptimizersCuda, TwoRunsAreTheSameBits) {
  World one({.dtype = DType::bf16}, gpu()), two({.dtype = DType::bf16}, gpu());
  const auto a = make_optimizer(GetParam().config), b = make_optimizer(GetParam().config);
  train(one, *a);
  train(two, *b);
  EXPECT_TRUE(bits_of(one, a->state()) == bits_of(two, b->state()));
}

TEST_P(OptimizersCuda, PartsOfBucketsGiveTheSameBits) {
  if (!can_split()) GTEST_SKIP() << "adafactor takes whole parameters";
  World whole({}, gpu()), split({.split = true}, gpu());
  const auto a = make_optimizer(GetParam().config), b = make_optimizer(GetParam().config);
  train(whole, *a);
  train(split, *b);
  for (size_t i = 0; i < whole.buckets.size(); ++i)
    EXPECT_TRUE(bytes_of(whole.ctx, whole.buckets[i].data) == bytes_of(split.ctx, split.buckets[i].data)) << i;
}

/// bf16 weights without masters, one of them a part of rows and one a part of columns of a global array.
class RandomlyRoundedCuda : public ::testing::Test {
 protected:
  void SetUp() override { TRIREME_NEEDS_GPUS(1); }

  static std::vector<std::byte> train(World& world, const OptimConfig& config, int steps) {
    world["wte.weight"].placement = Placement::split(0, 100, 40, 77);
    world["head.weight"].placement = Placement::split(1, 1000, 501, 802);
    const auto optimizer = make_optimizer(config, StochasticRounding{.seed = 11});
    optimizer->attach(world.ctx, world.shards);
    for (int k = 1; k <= steps; ++k) world.step(*optimizer, k, {.apply = k == 7 ? 0.0f : 1.0f, .lr = 0x1p-7f});
    std::vector<std::byte> weights;
    for (const Bucket& bucket : world.buckets) {
      const auto bytes = bytes_of(world.ctx, bucket.data);
      weights.insert(weights.end(), bytes.begin(), bytes.end());
    }
    return weights;
  }
};

// Plain gradient descent with a power of two as its learning rate rounds once, whatever the compiler makes of it: so the host
// and the device hold the same f32 before they round it at random.
TEST_F(RandomlyRoundedCuda, RoundsAsTheHostDoes) {
  OptimConfig config = config_of("sgd");
  config.momentum = config.weight_decay = 0.0;
  World host({.dtype = DType::bf16});
  const auto want = train(host, config, 10);
  for (const bool split : {false, true}) {
    World device({.dtype = DType::bf16, .split = split}, gpu());
    EXPECT_TRUE(train(device, config, 10) == want) << (split ? "in parts" : "whole");
  }
}

TEST_F(RandomlyRoundedCuda, PartsOfBucketsAndTwoRunsGiveTheSameBits) {
  for (const char* kind : {"adamw", "sgd", "lion"}) {
    World one({.dtype = DType::bf16}, gpu()), two({.dtype = DType::bf16}, gpu()), split({.dtype = DType::bf16, .split = true}, gpu());
    const auto want = train(one, config_of(kind), 10);
    EXPECT_TRUE(train(two, config_of(kind), 10) == want) << kind;
    EXPECT_TRUE(train(split, config_of(kind), 10) == want) << kind;
  }
}

// One step: where host and device differ in f32's last bits, one weight in some 2^16 is rounded to the other neighbour.
TEST_F(RandomlyRoundedCuda, AStepIsThatOfTheHost) {
  for (const char* kind : {"adamw", "sgd", "lion"}) {
    World host({.dtype = DType::bf16}), device({.dtype = DType::bf16}, gpu());
    train(host, config_of(kind), 1), train(device, config_of(kind), 1);
    size_t others = 0, all = 0;
    for (size_t b = 0; b < host.buckets.size(); ++b) {
      const auto want = values_of<bf16>(host.ctx, host.buckets[b].data), got = values_of<bf16>(device.ctx, device.buckets[b].data);
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_LE(std::abs(int{got[i].bits} - int{want[i].bits}), 1) << kind << " " << i;  // no weight is so near to zero
        others += got[i].bits != want[i].bits;
      }
      all += want.size();
    }
    EXPECT_LE(others, all / 1000) << kind;
  }
}

/// AdamW's kernel over one array of `n` elements in the given runs, on a device.
struct Flat {
  std::vector<float> weights, exp_avg, exp_avg_sq;
  std::vector<bf16> rounded;
};
Flat run_adamw(std::unique_ptr<Backend> backend, int64_t n, const std::vector<int64_t>& runs) {
  Engine engine(std::move(backend));
  register_optimizer_kernels(engine.backend());
  Context ctx = engine.context();
  const auto noise = [&](const char* name, float scale) {
    Parameter p;
    p.name = name;
    p.shape = {n};
    p.init = Init::normal(scale);
    std::vector<float> values(static_cast<size_t>(n));
    init_values(p, 3, values);
    return values;
  };
  const auto square = [](std::vector<float> values) {
    for (float& v : values) v *= v;
    return values;
  };
  const auto tensor = [&](const std::vector<float>& values) { return ctx.from_host<float>(values, {n}); };
  FlatUpdate update{tensor(noise("w", 1.0f)), ctx.zeros({n}, DType::bf16), tensor(noise("g", 0.1f)),
                    ctx.from_host<int64_t>(runs, {static_cast<int64_t>(runs.size()) / DecayRun::kSize, DecayRun::kSize}), 0.1};
  Tensor exp_avg = tensor(noise("m", 0.1f)), exp_avg_sq = tensor(square(noise("v", 0.1f)));
  const std::array<int64_t, 1> steps{5};
  const Tensor applied_steps = ctx.from_host<int64_t>(steps, {1});
  const Tensor control = make_control(ctx, {.multiplier = 0.5f, .lr = 0.3f});
  ctx.kernel<AdamwKernel>()(ctx, {0.9, 0.95, 1e-8}, update, control, applied_steps, exp_avg, exp_avg_sq);
  return {values_of<float>(ctx, update.weights), values_of<float>(ctx, exp_avg), values_of<float>(ctx, exp_avg_sq),
          values_of<bf16>(ctx, update.rounded)};
}

/// Runs that begin and end anywhere, one of them shorter than a 16-byte access and with others on both sides of it.
TEST(FlatUpdateCuda, RunsMayBeginAnywhere) {
  TRIREME_NEEDS_GPUS(1);
  for (const int64_t n : {int64_t{1}, int64_t{7}, int64_t{1024}, int64_t{4099}, int64_t{1} << 20}) {
    constexpr std::array<int64_t, 11> kLengths{1, 2, 1, 3, 1, 1, 2, 17, 40, 1, 301};
    std::vector<int64_t> runs;
    for (int64_t begin = 0, i = 0; begin < n; ++i) {
      const int64_t end = std::min(n, begin + kLengths[static_cast<size_t>(i) % kLengths.size()]);
      runs.insert(runs.end(), {begin, end, i % 2});
      begin = end;
    }
    const Flat host = run_adamw(make_cpu_backend(1), n, runs), device = run_adamw(gpu(), n, runs);
    SCOPED_TRACE(n);
    expect_close(device.weights, host.weights, 16, "weights");
    expect_close(device.exp_avg, host.exp_avg, 4, "exp_avg");
    expect_close(device.exp_avg_sq, host.exp_avg_sq, 4, "exp_avg_sq");
    for (size_t i = 0; i < device.weights.size(); ++i) ASSERT_EQ(device.rounded[i].bits, bf16(device.weights[i]).bits) << i;
  }
}

TEST(FlatUpdateCuda, WhatLiesBehindTheLastRunStays) {
  TRIREME_NEEDS_GPUS(1);
  constexpr int64_t kNumel = 2064, kEnd = 2050;
  const Flat host = run_adamw(make_cpu_backend(1), kNumel, {0, 33, 1, 33, kEnd, 0});
  const Flat device = run_adamw(gpu(), kNumel, {0, 33, 1, 33, kEnd, 0});
  expect_close(device.weights, host.weights, 16, "weights");
  for (size_t i = kEnd; i < kNumel; ++i) {
    EXPECT_EQ(device.weights[i], host.weights[i]) << i;
    EXPECT_EQ(device.exp_avg[i], host.exp_avg[i]) << i;
    EXPECT_EQ(device.exp_avg_sq[i], host.exp_avg_sq[i]) << i;
    EXPECT_EQ(device.rounded[i].bits, 0) << i;
  }
}

/// One guard on the host and one on a GPU, shown the same steps.
class GuardCuda : public ::testing::Test {
 protected:
  void SetUp() override { TRIREME_NEEDS_GPUS(1); }

  struct Stats {
    float sum_squares, not_finite, loss;
  };
  static void expect_same_path(const OptimConfig& config, const LossScaleSettings& loss_scale, const std::vector<Stats>& path) {
    Engine host_engine(make_cpu_backend(1)), device_engine(gpu());
    register_optimizer_kernels(host_engine.backend());
    register_optimizer_kernels(device_engine.backend());
    Context host = host_engine.context(), device = device_engine.context();
    UpdateGuard host_guard(host, config, loss_scale), device_guard(device, config, loss_scale);
    for (size_t k = 0; k < path.size(); ++k) {
      SCOPED_TRACE("step " + std::to_string(k));
      const auto decide = [&](Context& ctx, UpdateGuard& guard) {
        const std::array<float, UpdateGuard::kStats> stats{path[k].sum_squares, path[k].not_finite, path[k].loss};
        guard.set_learning_rate(ctx, 0.1 / static_cast<double>(k + 1));
        return read_control(ctx, guard.decide(ctx, ctx.from_host<float>(stats, {UpdateGuard::kStats})));
      };
      const StepControl want = decide(host, host_guard), got = decide(device, device_guard);
      EXPECT_EQ(got.apply, want.apply);
      EXPECT_EQ(got.reason(), want.reason());
      EXPECT_EQ(got.lr, want.lr);
      EXPECT_EQ(got.clipped, want.clipped);
      EXPECT_EQ(got.loss_scale, want.loss_scale);
      EXPECT_EQ(got.used_scale, want.used_scale);
      EXPECT_EQ(got.good_steps, want.good_steps);
      if (want.apply != 0.0f) {
        EXPECT_FLOAT_EQ(got.grad_norm, want.grad_norm);
        EXPECT_FLOAT_EQ(got.multiplier, want.multiplier);
      }
    }
    const auto host_state = host_guard.state(), device_state = device_guard.state();
    ASSERT_EQ(device_state.size(), host_state.size());
    for (size_t i = 0; i < host_state.size(); ++i) {
      EXPECT_EQ(device_state[i].name, host_state[i].name);
      EXPECT_TRUE(bytes_of(device, device_state[i].value) == bytes_of(host, host_state[i].value)) << host_state[i].name;
    }
  }
  static OptimConfig config(double clip, double zscore = 0.0) {
    OptimConfig config;
    config.clip = clip;
    config.skip_zscore = zscore;
    config.skip_window = 8;
    return config;
  }
};

// Sums of squares are squares of short numbers, so that their roots are exact and the windows have the same bits.
TEST_F(GuardCuda, ClipsAndSkipsAsTheHostDoes) {
  const std::vector<Stats> path{{16.0f, 0, 3.0f}, {0.25f, 0, 3.0f},     {0.0f, 0, 3.0f},     {1.0f, 1, 3.0f},
                                {4.0f, 0, 2.0f},  {INFINITY, 0, 3.0f},  {NAN, 0, 3.0f},      {1.0f, 0, NAN},
                                {9.0f, 0, 1.0f},  {1.0f, 0, -INFINITY}, {2.25f, 3, 3.0f}, {1e30f, 0, 3.0f}};
  expect_same_path(config(1.0), {}, path);
  expect_same_path(config(0.0), {}, path);
  expect_same_path(config(0.75), {.initial = 1024.0}, path);
}

TEST_F(GuardCuda, LooksForOutliersAsTheHostDoes) {
  std::vector<Stats> path;
  for (int k = 0; k < 12; ++k) path.push_back({k % 2 ? 1.0f : 0.5625f, 0, k % 2 ? 3.125f : 2.875f});
  path.push_back({1.0f, 0, 9.0f});     // an outlier of the loss
  path.push_back({1.0f, 1, 9.0f});     // not finite: stays out of the window
  path.push_back({1024.0f, 0, 3.0f});  // of the norm
  path.push_back({1.0f, 0, 0.125f});   // low is no harm
  for (int k = 0; k < 8; ++k) path.push_back({1.0f, 0, 6.0f});  // a lasting change
  expect_same_path(config(1.0, 2.5), {}, path);
}

TEST_F(GuardCuda, MovesTheLossScaleAsTheHostDoes) {
  const LossScaleSettings dynamic{.dynamic = true, .initial = 1024.0, .growth_interval = 3, .minimum = 128.0, .maximum = 4096.0};
  std::vector<Stats> path;
  for (const char c : std::string("++-+++++++++++------+++-+++"))
    path.push_back(c == '+' ? Stats{65536.0f, 0, 3.0f} : Stats{INFINITY, 1, 3.0f});
  expect_same_path(config(1.0), dynamic, path);
  expect_same_path(config(1.0, 4.0), dynamic, path);
}

}  // namespace
}  // namespace trireme::testing
