// Slots of two halves take turns, so that each exchange has work of the other half behind it.
#include <gmock/gmock.h>

#include <string>

#include "parallel/layers/block.h"

namespace trireme::nn {
namespace {

using ::testing::ElementsAre;

TEST(SlotsTest, TakeTurnsOneApart) {
  std::vector<std::string> ran;
  const auto slots = [&](const std::string& name, int count) {
    Slots made;
    for (int i = 0; i < count; ++i) made.push_back([&ran, name, i] { ran.push_back(name + std::to_string(i)); });
    return made;
  };
  run_in_turns(slots("a", 3), slots("b", 3));
  EXPECT_THAT(ran, ElementsAre("a0", "a1", "b0", "a2", "b1", "b2"));
  ran.clear();
  run_in_turns(slots("a", 1), slots("b", 3));
  EXPECT_THAT(ran, ElementsAre("a0", "b0", "b1", "b2"));
  ran.clear();
  run_slots(slots("a", 2));
  EXPECT_THAT(ran, ElementsAre("a0", "a1"));
}

}  // namespace
}  // namespace trireme::nn
