// UpdateGuard: clipping, un-scaling, and which steps are skipped.
#include "optim/clip.h"

#include <gmock/gmock.h>

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

}  // namespace
}  // namespace trireme::testing
