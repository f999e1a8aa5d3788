// UpdateGuard: clipping, un-scaling, which steps are skipped, and the path of a dynamic loss scale.
#include "optim/clip.h"

#include <gmock/gmock.h>

#include <array>
#include <cmath>

#include "tests/optim/optim_world.h"

namespace trireme::testing {
namespace {

constexpr float kInf = INFINITY;

class Guard : public ::testing::Test {
 protected:
  Guard() : engine_(make_cpu_backend(1)), ctx_(engine_.context()) {
    register_optimizer_kernels(engine_.backend());
  }

  StepControl decide(UpdateGuard& guard, float sum_squares, float not_finite, float loss, double lr = 0.1) {
    const std::array<float, UpdateGuard::kStats> stats{sum_squares, not_finite, loss};
    const Tensor device = ctx_.from_host<float>(stats, {UpdateGuard::kStats});
    guard.set_learning_rate(ctx_, lr);
    return read_control(ctx_, guard.decide(ctx_, device));
  }
  static OptimConfig config(double clip, double zscore = 0.0, int64_t window = 8) {
    OptimConfig config;
    config.clip = clip;
    config.skip_zscore = zscore;
    config.skip_window = window;
    return config;
  }

  Engine engine_;
  Context ctx_;
};

TEST_F(Guard, ClipsToTheNorm) {
  UpdateGuard guard(ctx_, config(1.0));
  const StepControl longer = decide(guard, 16.0f, 0, 3.0f, 0.25);
  EXPECT_FLOAT_EQ(longer.grad_norm, 4.0f);
  EXPECT_FLOAT_EQ(longer.multiplier, 0.25f);
  EXPECT_EQ(longer.clipped, 1.0f);
  EXPECT_EQ(longer.apply, 1.0f);
  EXPECT_EQ(longer.lr, 0.25f);
  const StepControl shorter = decide(guard, 0.25f, 0, 3.0f);
  EXPECT_FLOAT_EQ(shorter.grad_norm, 0.5f);
  EXPECT_EQ(shorter.multiplier, 1.0f);
  EXPECT_EQ(shorter.clipped, 0.0f);
  EXPECT_EQ(decide(guard, 0.0f, 0, 3.0f).multiplier, 1.0f);  // a zero gradient is no division by zero
}

TEST_F(Guard, ClipOfZeroIsNoLimit) {
  UpdateGuard guard(ctx_, config(0.0));
  const StepControl control = decide(guard, 1e6f, 0, 3.0f);
  EXPECT_EQ(control.multiplier, 1.0f);
  EXPECT_EQ(control.clipped, 0.0f);
  EXPECT_FLOAT_EQ(control.grad_norm, 1e3f);
}

TEST_F(Guard, DividesTheLossScaleOut) {
  UpdateGuard guard(ctx_, config(1.0), {.initial = 1024.0});
  const StepControl shorter = decide(guard, 512.0f * 512.0f, 0, 3.0f);
  EXPECT_FLOAT_EQ(shorter.grad_norm, 0.5f);
  EXPECT_FLOAT_EQ(shorter.multiplier, 1.0f / 1024.0f);
  const StepControl longer = decide(guard, 4096.0f * 4096.0f, 0, 3.0f);
  EXPECT_FLOAT_EQ(longer.grad_norm, 4.0f);
  EXPECT_FLOAT_EQ(longer.multiplier, 0.25f / 1024.0f);
}

TEST_F(Guard, SkipsWhatIsNotFinite) {
  UpdateGuard guard(ctx_, config(1.0));
  for (const auto& [squares, not_finite, loss] :
       {std::array{1.0f, 1.0f, 3.0f}, std::array{kInf, 0.0f, 3.0f}, std::array{NAN, 0.0f, 3.0f},
        std::array{1.0f, 0.0f, NAN}, std::array{1.0f, 0.0f, kInf}}) {
    const StepControl control = decide(guard, squares, not_finite, loss);
    EXPECT_EQ(control.apply, 0.0f) << squares << " " << not_finite << " " << loss;
    EXPECT_EQ(control.reason(), SkipReason::not_finite);
  }
  EXPECT_EQ(decide(guard, 1.0f, 0, 3.0f).apply, 1.0f);
  EXPECT_EQ(decide(guard, 1.0f, 0, 3.0f).reason(), SkipReason::none);
}

TEST_F(Guard, SkipsOutliersOfLossAndNormOnceTheWindowIsFull) {
  for (const bool of_loss : {true, false}) {
    UpdateGuard guard(ctx_, config(1.0, 4.0));
    const auto look = [&](float x) { return decide(guard, of_loss ? 1.0f : x * x, 0, of_loss ? x : 1.0f); };
    EXPECT_EQ(look(100.0f).apply, 1.0f);  // nothing to compare with yet
    for (int k = 0; k < 8; ++k) EXPECT_EQ(look(k % 2 ? 3.1f : 2.9f).apply, 1.0f) << k;
    EXPECT_EQ(look(3.35f).apply, 1.0f);  // 3.5 deviations
    const StepControl control = look(9.0f);
    EXPECT_EQ(control.apply, 0.0f);
    EXPECT_EQ(control.reason(), SkipReason::outlier);
    EXPECT_EQ(look(0.1f).apply, 1.0f);  // low is no harm
  }
}

TEST_F(Guard, AcceptsALastingChange) {
  UpdateGuard guard(ctx_, config(1.0, 2.0));
  for (int k = 0; k < 8; ++k) decide(guard, 1.0f, 0, k % 2 ? 3.1f : 2.9f);
  int skipped = 0;
  while (decide(guard, 1.0f, 0, 6.0f).apply == 0.0f) ++skipped;
  EXPECT_GE(skipped, 1);
  EXPECT_LE(skipped, 4);
}

TEST_F(Guard, NonFiniteStepsStayOutOfTheWindow) {
  UpdateGuard with(ctx_, config(1.0, 4.0)), without(ctx_, config(1.0, 4.0));
  for (int k = 0; k < 10; ++k) {
    decide(with, 1.0f, 0, k % 2 ? 3.1f : 2.9f);
    decide(with, 1.0f, 0, NAN);
    decide(without, 1.0f, 0, k % 2 ? 3.1f : 2.9f);
  }
  for (size_t i = 0; i < 2; ++i) {
    std::vector<std::byte> a, b;
    World::append(a, with.state().at(i).value);
    World::append(b, without.state().at(i).value);
    EXPECT_EQ(a, b) << with.state()[i].name;
  }
}

TEST_F(Guard, ResumesFromItsState) {
  UpdateGuard first(ctx_, config(1.0, 4.0)), second(ctx_, config(1.0, 4.0));
  for (int k = 0; k < 11; ++k) decide(first, 1.0f, 0, k % 2 ? 3.1f : 2.9f);
  EXPECT_EQ(decide(second, 1.0f, 0, 9.0f).apply, 1.0f);  // knows nothing yet
  for (size_t i = 0; i < 2; ++i) {
    const Tensor to = second.state().at(i).value, from = first.state().at(i).value;
    std::memcpy(to.raw(), from.raw(), from.bytes());
  }
  EXPECT_EQ(decide(second, 1.0f, 0, 9.0f).reason(), SkipReason::outlier);
}

TEST_F(Guard, KeepsNoWindowWhenOutliersAreNotLookedFor) {
  UpdateGuard guard(ctx_, config(1.0));
  EXPECT_TRUE(guard.state().empty());
  for (int k = 0; k < 20; ++k) decide(guard, 1.0f, 0, k % 2 ? 3.1f : 2.9f);
  EXPECT_EQ(decide(guard, 1e12f, 0, 1e6f).apply, 1.0f);
}

TEST_F(Guard, ControlStaysWhereItIs) {
  UpdateGuard guard(ctx_, config(1.0));
  const void* address = guard.control().raw();
  decide(guard, 1.0f, 0, 3.0f);
  EXPECT_EQ(guard.control().raw(), address);
}

TEST_F(Guard, RefusesWhatIsOutOfRange) {
  const auto refuses = [&](const OptimConfig& bad, const char* key) {
    EXPECT_THAT([&] { UpdateGuard(ctx_, bad); },
                ::testing::ThrowsMessage<ConfigError>(::testing::HasSubstr(key)));
  };
  refuses(config(-1.0), "optim.clip");
  refuses(config(NAN), "optim.clip");
  refuses(config(1.0, -3.0), "optim.skip_zscore");
  refuses(config(1.0, 6.0, 1), "optim.skip_window");
}

constexpr LossScaleSettings kDynamic{.dynamic = true, .initial = 1024.0, .growth_interval = 3, .minimum = 128.0, .maximum = 4096.0};

TEST_F(Guard, DynamicScaleGrowsAfterAnIntervalOfFiniteSteps) {
  UpdateGuard guard(ctx_, config(1.0), kDynamic);
  const auto look = [&] { return decide(guard, 1.0f, 0, 3.0f); };
  for (const float scale : {1024.0f, 1024.0f, 1024.0f, 2048.0f, 2048.0f, 2048.0f, 4096.0f}) {
    const StepControl control = look();
    EXPECT_EQ(control.used_scale, scale);
    EXPECT_FLOAT_EQ(control.grad_norm, 1.0f / scale);  // of the un-scaled gradient, by the scale that it was made with
    EXPECT_EQ(control.multiplier, 1.0f / scale);
  }
  EXPECT_EQ(look().loss_scale, 4096.0f);
}

TEST_F(Guard, DynamicScaleBacksOffAndStartsTheIntervalAgain) {
  UpdateGuard guard(ctx_, config(1.0), kDynamic);
  decide(guard, 1.0f, 0, 3.0f);
  decide(guard, 1.0f, 0, 3.0f);
  const StepControl overflow = decide(guard, kInf, 1.0f, 3.0f);  // one step short of growing
  EXPECT_EQ(overflow.apply, 0.0f);
  EXPECT_EQ(overflow.reason(), SkipReason::not_finite);
  EXPECT_EQ(overflow.used_scale, 1024.0f);
  EXPECT_EQ(overflow.loss_scale, 512.0f);
  EXPECT_EQ(overflow.good_steps, 0.0f);
  EXPECT_EQ(decide(guard, 1.0f, 0, 3.0f).loss_scale, 512.0f);
  EXPECT_EQ(decide(guard, 1.0f, 0, 3.0f).loss_scale, 512.0f);
  const StepControl third = decide(guard, 1.0f, 0, 3.0f);
  EXPECT_EQ(third.used_scale, 512.0f);
  EXPECT_EQ(third.loss_scale, 1024.0f);
}

TEST_F(Guard, DynamicScaleStaysBetweenItsLimits) {
  UpdateGuard guard(ctx_, config(1.0), kDynamic);
  for (const float scale : {512.0f, 256.0f, 128.0f, 128.0f, 128.0f}) EXPECT_EQ(decide(guard, NAN, 1.0f, 3.0f).loss_scale, scale);
  for (int k = 0; k < 3 * 8; ++k) EXPECT_LE(decide(guard, 1.0f, 0, 3.0f).loss_scale, 4096.0f);
  EXPECT_EQ(decide(guard, 1.0f, 0, 3.0f).loss_scale, 4096.0f);
}

TEST_F(Guard, FixedScaleNeverMoves) {
  UpdateGuard guard(ctx_, config(1.0), {.initial = 1024.0, .growth_interval = 1});
  for (int k = 0; k < 5; ++k) EXPECT_EQ(decide(guard, 1.0f, 0, 3.0f).loss_scale, 1024.0f);
  EXPECT_EQ(decide(guard, kInf, 1.0f, 3.0f).loss_scale, 1024.0f);
  EXPECT_TRUE(guard.state().empty());
}

TEST_F(Guard, OutliersLeaveTheDynamicScaleAlone) {
  UpdateGuard guard(ctx_, config(1.0, 4.0),
                    {.dynamic = true, .initial = 1024.0, .growth_interval = 1000, .minimum = 1.0});
  for (int k = 0; k < 8; ++k) decide(guard, 1.0f, 0, k % 2 ? 3.1f : 2.9f);
  const StepControl control = decide(guard, 1.0f, 0, 9.0f);
  EXPECT_EQ(control.reason(), SkipReason::outlier);
  EXPECT_EQ(control.loss_scale, 1024.0f);  // the gradient was finite
  EXPECT_EQ(control.good_steps, 9.0f);
}

TEST_F(Guard, LossScaleIsAViewOfWhatTheNextStepUses) {
  UpdateGuard guard(ctx_, config(1.0), kDynamic);
  const Tensor scale = guard.loss_scale();
  EXPECT_EQ(scale.item<float>(), 1024.0f);
  decide(guard, kInf, 1.0f, 3.0f);
  EXPECT_EQ(scale.item<float>(), 512.0f);
}

TEST_F(Guard, DynamicScaleResumesFromItsState) {
  // Finite and not, so that growth, backoff and a half-full interval all lie on the path.
  const std::array<bool, 16> finite{true, true, false, true,  true, true,  true, true,
                                    true, true, false, false, true, true, true, true};
  const auto look = [&](UpdateGuard& guard, size_t k) { return decide(guard, finite[k] ? 1.0f : kInf, finite[k] ? 0.0f : 1.0f, 3.0f); };
  for (size_t cut = 0; cut < finite.size(); ++cut) {
    UpdateGuard whole(ctx_, config(1.0), kDynamic), resumed(ctx_, config(1.0), kDynamic);
    for (size_t k = 0; k < cut; ++k) look(whole, k);
    ASSERT_EQ(whole.state().size(), 1u);
    const Tensor from = whole.state()[0].value, to = resumed.state().at(0).value;
    EXPECT_EQ(whole.state()[0].name, "guard.loss_scale");
    std::memcpy(to.raw(), from.raw(), from.bytes());
    for (size_t k = cut; k < finite.size(); ++k) {
      const StepControl a = look(whole, k), b = look(resumed, k);
      EXPECT_EQ(a.used_scale, b.used_scale) << cut << " " << k;
      EXPECT_EQ(a.loss_scale, b.loss_scale) << cut << " " << k;
      EXPECT_EQ(a.good_steps, b.good_steps) << cut << " " << k;
    }
  }
}

TEST_F(Guard, NoWeightMovesWhileTheScaleIsTooLarge) {
  World world({.dtype = DType::bf16});
  const auto optimizer = make_optimizer(config_of("adamw"));
  optimizer->attach(world.ctx, world.shards);
  UpdateGuard guard(world.ctx, config(1.0), kDynamic);
  const auto step = [&](int k, bool finite) {
    world.set_gradients(k);
    if (!finite) world["wte.weight"].grad.span<float>()[5] = kInf;
    const std::array<float, UpdateGuard::kStats> stats{finite ? 1.0f : kInf, finite ? 0.0f : 1.0f, 3.0f};
    guard.set_learning_rate(world.ctx, 0.01);
    optimizer->step(world.ctx, world.shards, guard.decide(world.ctx, world.ctx.from_host<float>(stats, {UpdateGuard::kStats})));
  };
  step(1, true);
  const auto weights = world.weights();
  const auto state = World::bits(optimizer->state());
  for (int k = 2; k <= 4; ++k) step(k, false);
  EXPECT_EQ(world.weights(), weights);
  EXPECT_EQ(World::bits(optimizer->state()), state);
  step(5, true);
  EXPECT_NE(world.weights(), weights);
  EXPECT_EQ(optimizer->state().scalars.at(0).value.item<int64_t>(), 2);
}

TEST(LossScale, SaysWhatIsWrong) {
  const auto error_of = [](auto change) -> std::string {
    LossScaleSettings settings{.dynamic = true, .initial = 1024.0};
    change(settings);
    try {
      check_loss_scale(settings);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "no error";
  };
  using ::testing::HasSubstr;
  EXPECT_EQ(error_of([](LossScaleSettings&) {}), "no error");
  for (const double initial : {0.0, -8.0, 1e39, double{INFINITY}, double{NAN}}) {
    EXPECT_THAT(error_of([=](LossScaleSettings& s) { s.initial = initial; }), HasSubstr("precision.initial_scale")) << initial;
    EXPECT_THAT(error_of([=](LossScaleSettings& s) { s.dynamic = false, s.initial = initial; }), HasSubstr("precision.loss_scale"));
  }
  for (const double factor : {0.5, double{INFINITY}, double{NAN}})
    EXPECT_THAT(error_of([=](LossScaleSettings& s) { s.growth_factor = factor; }), HasSubstr("precision.growth_factor")) << factor;
  for (const double backoff : {0.0, 1.0, -0.5, double{NAN}})
    EXPECT_THAT(error_of([=](LossScaleSettings& s) { s.backoff = backoff; }), HasSubstr("precision.backoff")) << backoff;
  EXPECT_THAT(error_of([](LossScaleSettings& s) { s.growth_interval = 0; }), HasSubstr("precision.growth_interval"));
  for (const double minimum : {0.0, 2048.0, double{NAN}})
    EXPECT_THAT(error_of([=](LossScaleSettings& s) { s.minimum = minimum; }), HasSubstr("precision.min_scale")) << minimum;
  // What only a dynamic scale uses is not looked at when it is fixed; the guard checks what it is given.
  EXPECT_EQ(error_of([](LossScaleSettings& s) { s.dynamic = false, s.backoff = 7.0; }), "no error");
}

TEST_F(Guard, RefusesALossScaleOutOfRange) {
  EXPECT_THAT([&] { UpdateGuard(ctx_, config(1.0), {.initial = 0.0}); },
              ::testing::ThrowsMessage<ConfigError>(::testing::HasSubstr("precision.loss_scale")));
}

}  // namespace
}  // namespace trireme::testing
