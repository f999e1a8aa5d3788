// The conformance table over ranks that are threads.
#include <gtest/gtest.h>

#include "comm/local/local_world.h"
#include "tests/comm/conformance.h"

namespace trireme {
namespace {

class LocalConformance : public testing::TestWithParam<std::tuple<int, ConformanceCase>> {};

TEST_P(LocalConformance, Holds) {
  const auto& [size, conformance_case] = GetParam();
  LocalWorld(size, {.timeout_ms = 30'000}).run([&, size = size, run = conformance_case.run](Group& world) {
    ASSERT_EQ(world.size(), size);
    run(world);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, LocalConformance,
                         testing::Combine(testing::Values(1, 2, 3, 4, 7),
                                          testing::ValuesIn(conformance_cases().begin(),
                                                            conformance_cases().end())),
                         [](const auto& info) {
                           return std::string(std::get<1>(info.param).name) + "_" +
                                  std::to_string(std::get<0>(info.param));
                         });

}  // namespace
}  // namespace trireme
