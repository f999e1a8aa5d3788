// Which ranks are on this machine: all of them, when they are threads.
#include "comm/local_ranks.h"

#include <gtest/gtest.h>

#include "comm/local/local_world.h"
#include "comm/solo_group.h"

namespace trireme {
namespace {

TEST(LocalRanks, ThreadsAreOnOneMachine) {
  LocalWorld(3).run([](Group& world) {
    ASSERT_EQ(world.size(), 3);
    EXPECT_EQ(find_local_ranks(world), (LocalRanks{world.rank(), 3}));
  });
  SoloGroup solo;
  EXPECT_EQ(find_local_ranks(solo), (LocalRanks{0, 1}));
}

TEST(LocalRanks, NumbersStandForTexts) {
  EXPECT_EQ(machine_id(), machine_id());
  EXPECT_EQ(fingerprint("0000:1b:00.0"), fingerprint("0000:1b:00.0"));
  EXPECT_NE(fingerprint("0000:1b:00.0"), fingerprint("0000:1c:00.0"));
}

}  // namespace
}  // namespace trireme
