// Drawing tokens: the limits of temperature, top-k and top-p, and the frequencies in between.
#include "launcher/sampling.h"

#include <gtest/gtest.h>

#include <cmath>

namespace trireme {
namespace {

const std::vector<float> kLogits{std::log(0.1f), std::log(0.5f), std::log(0.25f), std::log(0.15f)};

std::vector<double> frequencies(const SamplingConfig& config) {
  std::vector<double> counts(kLogits.size());
  constexpr int kDraws = 1000;
  for (int i = 0; i < kDraws; ++i) counts[draw_token(kLogits, config, (i + 0.5f) / kDraws)] += 1.0 / kDraws;
  return counts;
}

TEST(SamplingTest, PlainSamplingHasTheModelsProbabilities) {
  const auto f = frequencies({});
  EXPECT_NEAR(f[0], 0.1, 2e-3);
  EXPECT_NEAR(f[1], 0.5, 2e-3);
  EXPECT_NEAR(f[2], 0.25, 2e-3);
  EXPECT_NEAR(f[3], 0.15, 2e-3);
}

TEST(SamplingTest, TemperatureZeroIsGreedy) {
  EXPECT_EQ(draw_token(kLogits, {.temperature = 0.0}, 0.999f), 1);
}

TEST(SamplingTest, TopKKeepsTheLikeliest) {
  const auto f = frequencies({.top_k = 2});
  EXPECT_NEAR(f[1], 2.0 / 3, 2e-3);
  EXPECT_NEAR(f[2], 1.0 / 3, 2e-3);
  EXPECT_EQ(f[0] + f[3], 0.0);
}

TEST(SamplingTest, TopPKeepsTheSmallestSetThatReachesIt) {
  const auto f = frequencies({.top_p = 0.6});
  EXPECT_NEAR(f[1], 2.0 / 3, 2e-3);
  EXPECT_NEAR(f[2], 1.0 / 3, 2e-3);
  EXPECT_NEAR(frequencies({.top_p = 0.01})[1], 1.0, 1e-9);
}

TEST(SamplingTest, OutOfRangeIsTheUsersError) {
  EXPECT_THROW(check_sampling({.temperature = -1.0}), ConfigError);
  EXPECT_THROW(check_sampling({.top_p = 0.0}), ConfigError);
  EXPECT_THROW(check_sampling({.top_k = -1}), ConfigError);
  EXPECT_THROW(check_sampling({.tokens = -1}), ConfigError);
}

}  // namespace
}  // namespace trireme
