// Learning-rate schedules: values at the places that matter, and that no schedule jumps.
#include "optim/schedule.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/error.h"

namespace trireme {
namespace {

OptimConfig config_of(const std::string& kind, int64_t warmup, double final = 0.1) {
  OptimConfig config;
  config.lr = 2.0;
  config.schedule.kind = kind;
  config.schedule.warmup = warmup;
  config.schedule.final = final;
  return config;
}

class EverySchedule : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Schedules, EverySchedule,
                         ::testing::Values("constant", "linear", "cosine", "wsd", "inverse_sqrt"));

TEST_P(EverySchedule, WarmsUpInAStraightLine) {
  const OptimConfig config = config_of(GetParam(), 40);
  for (int64_t s = 1; s <= 40; ++s)
    EXPECT_NEAR(learning_rate(config, s, 1000), 2.0 * static_cast<double>(s) / 40, 1e-12) << s;
}

TEST_P(EverySchedule, NeverJumpsAndNeverRisesAfterWarmup) {
  for (const int64_t warmup : {0, 1, 100}) {
    const OptimConfig config = config_of(GetParam(), warmup);
    const double largest_step =
        2.0 / (warmup > 1 ? 100 : 20);  // of a warm-up of 100 or a decay of 100 of 1000 steps
    for (int64_t s = std::max<int64_t>(1, warmup); s < 1100; ++s) {
      const double now = learning_rate(config, s, 1000), next = learning_rate(config, s + 1, 1000);
      EXPECT_LE(next, now + 1e-12) << s;
      const bool is_steep =
          std::string(GetParam()) == "inverse_sqrt" && warmup <= 1;  // halves within 4 steps
      if (!is_steep) {
        EXPECT_LT(now - next, largest_step) << s;
      }
    }
  }
}

TEST_P(EverySchedule, StaysWithinTheWarmupOfAShortRun) {
  const OptimConfig config = config_of(GetParam(), 700);
  for (int64_t s = 1; s <= 20; ++s) {
    const double lr = learning_rate(config, s, 20);
    EXPECT_GT(lr, 0.0);
    EXPECT_LE(lr, 2.0 * static_cast<double>(s) / 700 + 1e-12);
  }
}

TEST(Schedule, EndsAtTheFinalShare) {
  for (const char* kind : {"linear", "cosine", "wsd"})
    for (const double final : {0.0, 0.1, 1.0})
      for (const int64_t step : {1000, 5000})
        EXPECT_NEAR(learning_rate(config_of(kind, 100, final), step, 1000), 2.0 * final, 1e-12) << kind;
}

TEST(Schedule, KnownValues) {
  EXPECT_DOUBLE_EQ(learning_rate(config_of("constant", 0), 1, 10), 2.0);
  EXPECT_NEAR(learning_rate(config_of("linear", 100), 550, 1000), 2.0 * 0.55, 1e-12);
  EXPECT_NEAR(learning_rate(config_of("cosine", 100), 550, 1000), 2.0 * 0.55, 1e-12);
  EXPECT_NEAR(learning_rate(config_of("cosine", 100), 325, 1000),
              2.0 * (0.1 + 0.9 * 0.5 * (1 + std::cos(M_PI / 4))), 1e-12);
  EXPECT_DOUBLE_EQ(learning_rate(config_of("wsd", 100), 900, 1000), 2.0);  // a tenth of the run is left
  EXPECT_NEAR(learning_rate(config_of("wsd", 100), 950, 1000), 2.0 * 0.55, 1e-12);
  EXPECT_NEAR(learning_rate(config_of("inverse_sqrt", 100), 400, 1000), 1.0, 1e-12);
  OptimConfig wsd = config_of("wsd", 0);
  wsd.schedule.decay = 400;
  EXPECT_DOUBLE_EQ(learning_rate(wsd, 600, 1000), 2.0);
  EXPECT_NEAR(learning_rate(wsd, 800, 1000), 2.0 * 0.55, 1e-12);
}

TEST(Schedule, RefusesWhatIsOutOfRange) {
  const auto refuses = [](auto change, const char* key) {
    OptimConfig config;
    change(config);
    EXPECT_THAT([&] { learning_rate(config, 1, 10); },
                ::testing::ThrowsMessage<ConfigError>(::testing::HasSubstr(key)));
  };
  refuses([](OptimConfig& c) { c.schedule.kind = "sine"; }, "optim.schedule.kind");
  refuses([](OptimConfig& c) { c.schedule.warmup = -1; }, "optim.schedule.warmup");
  refuses([](OptimConfig& c) { c.schedule.final = 6e-5 - 1; }, "optim.schedule.final");
  refuses([](OptimConfig& c) { c.schedule.final = 1.1; }, "optim.schedule.final");
  refuses([](OptimConfig& c) { c.schedule.decay = -5; }, "optim.schedule.decay");
}

}  // namespace
}  // namespace trireme
