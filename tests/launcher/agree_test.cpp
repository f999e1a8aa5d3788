// What some ranks find wrong ends all of them, and is told once.
#include "launcher/agree.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/local/local_world.h"
#include "tests/comm/test_tensor.h"

namespace trireme {
namespace {

/// What the user is told, and three ranks throw, whose work is `work(rank)`.
std::string refusal_of(const std::function<void(int rank)>& work) {
  std::vector<std::string> thrown(3);
  ::testing::internal::CaptureStderr();
  LocalWorld(3).run([&](Group& world) {
    thrown[static_cast<size_t>(world.rank())] =
        message_of<AlreadyTold>([&] { agree(world, "input checked", [&] { work(world.rank()); }); });
  });
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "trireme: error: " + thrown[0] + "\n");
  EXPECT_EQ(thrown, std::vector(3, thrown[0]));
  return thrown[0];
}

TEST(AgreeTest, EachRankHasWhatItsWorkGives) {
  LocalWorld(3).run([](Group& world) {
    EXPECT_EQ(agree(world, "number", [&] { return 10 * world.rank(); }), 10 * world.rank());
    const auto moved = agree(world, "pointer", [&] { return std::make_unique<int>(world.rank()); });
    EXPECT_EQ(*moved, world.rank());
  });
}

TEST(AgreeTest, WhatAllFindIsToldOnce) {
  EXPECT_EQ(refusal_of([](int) { throw ConfigError("no such key"); }), "no such key");
}

TEST(AgreeTest, WhatAnotherRankFindsNamesThatRank) {
  EXPECT_EQ(refusal_of([](int rank) {
              if (rank > 0) throw ConfigError(rank == 1 ? "no such file" : "another");
            }),
            "rank 1: no such file");
}

TEST(AgreeTest, OtherErrorsAreTheirRanksOwn) {
  EXPECT_EQ(message_of<IoError>([] {
              LocalWorld(2).run([](Group& world) {
                agree(world, "input checked", [&] {
                  if (world.rank() == 1) throw IoError("the disk is gone");
                });
              });
            }),
            "the disk is gone");
}

TEST(AgreeTest, OneRankThrowsItAsItIs) {
  LocalWorld(1).run([](Group& world) {
    EXPECT_EQ(message_of<ConfigError>([&] { agree(world, "x", [] { throw ConfigError("wrong"); }); }), "wrong");
  });
}

}  // namespace
}  // namespace trireme
