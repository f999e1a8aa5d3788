// Ranks that were told different things are told so, before they do any.
#include "launcher/same_run.h"

#include <gmock/gmock.h>

#include <fstream>

#include "comm/local/local_world.h"
#include "tests/temporary_folder.h"
#include "tests/refusal.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

Config config() {
  Config c;
  c.model.layers = 4, c.model.heads = 2, c.model.width = 32, c.model.context = 16, c.model.vocab = 64;
  c.batch.global = 12, c.batch.micro = 2;
  c.data.train = {{"/data/train.bin", 1.0}};
  return c;
}

/// What three ranks are told when rank 2 has `change`.
std::string refusal_when(const Config& all, const std::function<void(Config&)>& change) {
  std::vector<std::string> told(3);
  LocalWorld(3).run([&](Group& world) {
    ASSERT_EQ(world.size(), 3);
    Config c = all;
    if (world.rank() == 2) change(c);
    const RunPlan plan = plan_run(c, world.size(), /*needs_data=*/false);
    told[static_cast<size_t>(world.rank())] = refusal_of([&] { check_same_run(plan, world); });
  });
  EXPECT_EQ(told, std::vector(3, told[0]));
  return told[0];
}

TEST(SameRunTest, RanksMayHaveTheirOwnPathsAndThreads) {
  EXPECT_EQ(refusal_when(config(), [](Config& c) {
              c.run.threads = 7;
              c.data.train = {{"/scratch/2/train.bin", 1.0}};
            }),
            "accepted");
}

TEST(SameRunTest, AnotherValueIsShown) {
  EXPECT_EQ(refusal_when(config(), [](Config& c) { c.optim.lr = 0.5; }),
            "rank 2: it has another experiment: `lr: 0.5` where rank 0 has `lr: 0.0003`; give all ranks the same file and the "
            "same --set");
}

TEST(SameRunTest, AnotherMixtureOfDataIsShown) {
  Config c = config();
  c.data.train = {{"/scratch/a.bin", 1.0}, {"/scratch/b.bin", 1.0}};
  EXPECT_THAT(refusal_when(c, [](Config& other) { other.data.train[1].weight = 3.0; }), HasSubstr("rank 2: it has another experiment"));
  EXPECT_THAT(refusal_when(c, [](Config& other) { other.data.train.pop_back(); }), HasSubstr("rank 2: it has another experiment"));
}

TEST(SameRunTest, AnotherCopyOfAScheduleIsSeen) {
  const TemporaryFolder first, other;
  const auto write = [](const std::filesystem::path& file, const char* text) { std::ofstream(file) << text; };
  const char* const name = "own.csv";
  write(first / name, "F0.0,F0.1,B0.0,B0.1\nF1.0,B1.0,F1.1,B1.1\nF2.0,B2.0,F2.1,B2.1\n");
  write(other / name, "F0.0,F0.1,B0.0,B0.1\nF1.0,F1.1,B1.0,B1.1\nF2.0,B2.0,F2.1,B2.1\n");
  Config c = config();
  c.batch.global = 4;
  c.parallel.pipeline = 3;
  c.parallel.schedule = (first / name).string();
  EXPECT_EQ(refusal_when(c, [](Config&) {}), "accepted");
  // The same path shows another file on another host.
  std::vector<std::string> told(3);
  LocalWorld(3).run([&](Group& world) {
    RunPlan plan = plan_run(c, world.size(), /*needs_data=*/false);
    if (world.rank() == 1) {
      Config there = c;
      there.parallel.schedule = (other / name).string();
      plan.layout = plan_run(there, world.size(), /*needs_data=*/false).layout;
    }
    told[static_cast<size_t>(world.rank())] = refusal_of([&] { check_same_run(plan, world); });
  });
  for (const std::string& text : told) EXPECT_THAT(text, HasSubstr("rank 1: it has another schedule in " + c.parallel.schedule));
}

}  // namespace
}  // namespace trireme
