// The table of a profile: sums by operation and kernel, and what of communication is exposed.
#include "launcher/profile_report.h"

#include <gmock/gmock.h>

#include <tuple>

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kMs = 1'000'000;

TEST(ProfileReport, SumsByOperationAndKernelAndFindsWhatIsExposed) {
  // Two steps of 10 ms. Communication runs from 4 to 8 ms beside a product until 6 ms: 2 ms are exposed.
  const std::vector<DeviceActivity> activities{
      {"gemm", 0, 6 * kMs, false, {"forward", "linear"}},
      {"ncclDevKernel_AllReduce", 4 * kMs, 8 * kMs, true, {"backward"}},
      {"gemm", 10 * kMs, 14 * kMs, false, {"backward", "linear"}},
      {"fill", 14 * kMs, 16 * kMs, false, {}},
  };
  const std::string table = profile_table({2, 0, 20 * kMs, 1e12, 1e15}, activities, {});
  EXPECT_THAT(table, HasSubstr("2 steps of 10.000 ms, 100.0 TFLOP/s, 10.0% of the peak measured"));
  EXPECT_THAT(table, HasSubstr("the device is idle 3.000 ms a step; communication 2.000 ms, of which 1.000 ms exposed"));
  EXPECT_THAT(table, HasSubstr("     3.000   30.0%        0.5  forward: linear"));
  EXPECT_THAT(table, HasSubstr("     2.000   20.0%        0.5  backward: linear"));
  EXPECT_THAT(table, HasSubstr("     1.000   10.0%        0.5  outside of a step"));
  EXPECT_THAT(table, HasSubstr("     5.000   50.0%        1.0  gemm"));
}

TEST(ProfileReport, PassesOfOneKindAreOneRow) {
  const std::vector<DeviceActivity> activities{{"gemm", 0, kMs, false, {"F0.0", "linear"}},
                                               {"gemm", kMs, 3 * kMs, false, {"F0.1", "linear"}},
                                               {"gemm", 3 * kMs, 7 * kMs, false, {"W0.1", "linear"}}};
  const std::string table = profile_table({1, 0, 10 * kMs, 0.0, 0.0}, activities, {});
  EXPECT_THAT(table, HasSubstr("     3.000   30.0%        2.0  forward: linear"));
  EXPECT_THAT(table, HasSubstr("     4.000   40.0%        1.0  backward (weights): linear"));
}

TEST(ProfileReport, OperationsWithProductsHaveTheirRate) {
  using Lane = Tracer::Lane;
  // The host queued both steps within a millisecond; the device took 3 ms for forward's products and 5 for backward's.
  const std::vector<Tracer::Span> spans{
      {Lane::compute, "linear", 10, 20, -1, 1.2e12}, {Lane::compute, "layer_norm", 20, 30, -1}, {Lane::step, "F0.0", 5, 40, -1},
      {Lane::compute, "linear", 50, 60, -1, 1.2e12}, {Lane::compute, "linear", 60, 70, -1, 0.8e12},
      {Lane::step, "B0.0", 45, 80, -1},              {Lane::compute, "linear", 90, 99, -1, 7e12}};  // in no phase
  const std::vector<DeviceActivity> activities{{"gemm", 0, 3 * kMs, false, {"F0.0", "linear"}},
                                               {"norm", 3 * kMs, 4 * kMs, false, {"F0.0", "layer_norm"}},
                                               {"gemm", 4 * kMs, 9 * kMs, false, {"B0.0", "linear"}}};
  const std::string table = profile_table({1, 0, 10 * kMs, 0.0, 8e14}, activities, spans);
  EXPECT_THAT(table, HasSubstr("     3.000   30.0%        1.0     400.0    50.0%  forward: linear\n"));
  EXPECT_THAT(table, HasSubstr("     5.000   50.0%        1.0     400.0    50.0%  backward: linear\n"));
  EXPECT_THAT(table, HasSubstr("     1.000   10.0%        1.0                     forward: layer_norm\n"));
  EXPECT_THAT(table, HasSubstr("     8.000   80.0%        2.0  gemm\n")) << "kernels have no rates";
}

TEST(ProfileReport, ADevicesPassesLastFromTheirFirstKernelToTheirLast) {
  const std::vector<DeviceActivity> activities{
      {"gemm", 1000, 3000, false, {"F0.0", "linear"}},
      {"ncclDevKernel_SendRecv", 2000, 9000, true, {"F0.0"}},
      {"copy", 2500, 2600, false, {"wait for the batch"}},
      {"gelu", 4000, 5000, false, {"F0.0", "mlp"}},
      {"gemm", 8000, 9000, false, {"F0.1", "linear"}},
      {"gemm", 9000, 9500, false, {"F0.0", "linear"}},  // the next step's
      {"adamw", 9500, 9900, false, {"update"}},
  };
  std::vector<std::tuple<std::string, int64_t, int64_t>> passes;
  for (const Tracer::Span& s : device_passes(activities)) {
    EXPECT_EQ(s.lane, Tracer::Lane::device_step);
    passes.emplace_back(s.name, s.begin_us, s.end_us);
  }
  EXPECT_THAT(passes, ElementsAre(std::tuple("F0.0", 1, 5), std::tuple("F0.1", 8, 9), std::tuple("F0.0", 9, 9)));
}

TEST(ProfileReport, OfAHostThatDoesTheWorkItselfIsMadeOfSpans) {
  using Lane = Tracer::Lane;
  const std::vector<Tracer::Span> spans{{Lane::compute, "linear", 1000, 3000, -1},
                                        {Lane::compute, "linear", 4000, 5000, -1},
                                        {Lane::communication, "all_reduce", 4000, 6000, 64},
                                        {Lane::compute, "linear", 0, 900, -1}};  // before the first step
  const std::string table = profile_table({1, 1000 * 1000, 11000 * 1000, 0.0, 0.0}, spans);
  EXPECT_THAT(table, HasSubstr("     3.000   30.0%        2.0  linear"));
  EXPECT_THAT(table, HasSubstr("     2.000   20.0%        1.0  all_reduce"));
}

}  // namespace
}  // namespace trireme
