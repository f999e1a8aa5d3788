// Schedules as data: names of actions, what the executor asks, refusals, CSV files.
#include "parallel/schedule/schedule.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "parallel/schedule/schedule_csv.h"
#include "parallel/schedule/validate.h"
#include "tests/temporary_folder.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Lt;
using ::testing::SizeIs;

template <class Call>
std::string refusal(const Call& call) {
  try {
    call();
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "accepted";
}

class ScheduleCsvTest : public ::testing::Test {
 protected:
  std::filesystem::path file(const std::string& text) {
    std::ofstream(path_) << text;
    return path_;
  }
  std::string refusal_of(const std::string& text) {
    return refusal([&] { read_schedule(file(text)); });
  }
  const TemporaryFolder folder_;
  const std::filesystem::path path_ = folder_ / "schedule.csv";
};

std::string line_of(const Schedule& s, int rank) {
  std::vector<std::string> names;
  for (const Action& a : s.ranks[static_cast<size_t>(rank)]) names.push_back(to_string(a));
  return fmt::format("{}", fmt::join(names, " "));
}

TEST(ActionTest, NamesAndParsingAreInverse) {
  for (const ActionKind kind :
       {ActionKind::forward, ActionKind::backward, ActionKind::backward_input, ActionKind::backward_weight})
    for (const Action& a : {Action{kind, 0, 3}, Action{kind, 12, 65535}})
      EXPECT_EQ(parse_action(to_string(a)), a);
  EXPECT_EQ(to_string({ActionKind::backward_input, 1, 2}), "I1.2");
  for (const char* wrong :
       {"", "F", "F1", "F1.", "F.1", "f1.2", "X1.2", "F1.2 ", "F-1.2", "F1.65536", "F1.2.3", "F 1.2"})
    EXPECT_FALSE(parse_action(wrong)) << wrong;
}

TEST(MakeScheduleTest, KnownOrders) {
  EXPECT_EQ(line_of(make_schedule("gpipe", 2, 1, 3), 1), "F1.0 F1.1 F1.2 B1.0 B1.1 B1.2");
  const Schedule plain = make_schedule("1f1b", 3, 1, 4);
  EXPECT_EQ(line_of(plain, 0), "F0.0 F0.1 F0.2 B0.0 F0.3 B0.1 B0.2 B0.3");
  EXPECT_EQ(line_of(plain, 2), "F2.0 B2.0 F2.1 B2.1 F2.2 B2.2 F2.3 B2.3");
  EXPECT_EQ(line_of(make_schedule("interleaved", 2, 2, 2), 0), "F0.0 F0.1 F2.0 F2.1 B2.0 B2.1 B0.0 B0.1");
  EXPECT_EQ(line_of(make_schedule("zb-h1", 2, 1, 3), 1), "F1.0 I1.0 F1.1 I1.1 W1.0 F1.2 I1.2 W1.1 W1.2");
  EXPECT_EQ(line_of(make_schedule("zb-v", 1, 2, 2), 0),
            "F0.0 F1.0 I1.0 W1.0 F0.1 I0.0 W0.0 F1.1 I1.1 W1.1 I0.1 W0.1");
}

TEST(ScheduleTest, SaysWhatTheExecutorAsks) {
  const Schedule v = make_schedule("zb-v", 3, 2, 4);
  EXPECT_THAT(v.rank_of_stage, ElementsAre(0, 1, 2, 2, 1, 0));
  EXPECT_THAT(v.stages_of(1), ElementsAre(1, 4));
  EXPECT_TRUE(v.sends(0, Direction::forward));
  EXPECT_FALSE(v.sends(2, Direction::forward));  // both ends of the V are on one rank
  EXPECT_FALSE(v.sends(3, Direction::backward));
  EXPECT_TRUE(v.sends(3, Direction::forward));
  EXPECT_FALSE(v.sends(5, Direction::forward));  // nobody comes after the last stage, or before the first
  EXPECT_FALSE(v.sends(0, Direction::backward));

  const Schedule loop = make_schedule("interleaved", 3, 2, 3);
  EXPECT_THAT(loop.rank_of_stage, ElementsAre(0, 1, 2, 0, 1, 2));
  EXPECT_TRUE(loop.sends(2, Direction::forward));
  EXPECT_EQ(loop.max_stages_of_a_rank(), 2);
}

TEST_F(ScheduleCsvTest, ChannelOrderIsTheSendersOrder) {
  const Schedule s =
      read_schedule(file("F0.2,F0.0,F0.1,B0.1,I0.0,W0.0,B0.2\nF1.0,F1.1,F1.2,B1.2,I1.1,B1.0,W1.1\n"));
  EXPECT_THAT(s.channel_order(0, Direction::forward), ElementsAre(2, 0, 1));
  EXPECT_THAT(s.channel_order(1, Direction::backward), ElementsAre(2, 1, 0));
}

TEST(MakeScheduleTest, RefusesWithAWayOut) {
  EXPECT_THAT(refusal([] { make_schedule("zb-h2", 2, 1, 2); }),
              HasSubstr("no schedule 'zb-h2' (did you mean zb-h1?)"));
  EXPECT_THAT(refusal([] { make_schedule("something", 2, 1, 2); }),
              HasSubstr("gpipe, 1f1b, interleaved, zb-h1, zb-v"));
  EXPECT_THAT(refusal([] { make_schedule("1f1b", 2, 2, 2); }),
              HasSubstr("got parallel.chunks = 2; set it to 1, or take interleaved"));
  EXPECT_THAT(refusal([] { make_schedule("zb-v", 2, 1, 2); }),
              HasSubstr("got parallel.chunks = 1; set it to 2"));
  EXPECT_THAT(refusal([] { make_schedule("gpipe", 2, 1, 0); }), HasSubstr("1 or more"));
  EXPECT_THAT(refusal([] { make_schedule("gpipe", 2, 1, 65535); }), HasSubstr("at the most"));
  EXPECT_EQ(make_schedule("interleaved", 100, 100, 60).num_stages(), 10000);
}

TEST_F(ScheduleCsvTest, ReadsWhatItWrote) {
  for (const std::string& name : schedule_names()) {
    Schedule s = make_schedule(name, 3, name == "zb-v" ? 2 : 1, 4);
    write_schedule(s, path_);
    s.name = path_.stem().string();
    EXPECT_EQ(read_schedule(path_), s);
    EXPECT_EQ(make_schedule(path_.string(), 3, name == "zb-v" ? 2 : 1, 4), s);
  }
  EXPECT_THAT(refusal([&] { make_schedule(path_.string(), 3, 2, 5); }),
              HasSubstr("is for 3 ranks, 2 stages a rank and 4 micro-batches; the run has 3, 2 and 5"));
}

TEST_F(ScheduleCsvTest, TakesWhatSpreadsheetsWrite) {
  const Schedule s = read_schedule(file("# by hand\n\nF0.0,,\"B0.0\" ,\r\n , F1.0, B1.0\n"));
  EXPECT_EQ(line_of(s, 0), "F0.0 B0.0");
  EXPECT_EQ(line_of(s, 1), "F1.0 B1.0");
  EXPECT_EQ(s.micro_batches, 1);
}

TEST_F(ScheduleCsvTest, TakesWhatSpreadsheetsWriteOrSaysWhatIsWrong) {
  EXPECT_EQ(line_of(read_schedule(file("\xEF\xBB\xBF" "F0.0,B0.0\n")), 0), "F0.0 B0.0");
  EXPECT_THAT(refusal_of("F0.0;B0.0\n"), HasSubstr("cells are parted by commas"));
}

TEST_F(ScheduleCsvTest, NamesFileLineAndCell) {
  EXPECT_THAT(refusal_of("F0.0,B0.0\n# x\nF1.0,,G1.0\n"),
              HasSubstr("/schedule.csv:3: cell 3: 'G1.0' is no action"));
  EXPECT_THAT(refusal_of("F0.0,B0.0\nF1.0,B0.0\n"),
              HasSubstr(":2: cell 2: 'B0.0' on rank 1, but stage 0 is that of rank 0"));
  EXPECT_THAT(refusal_of("# nothing\n"), HasSubstr("no actions"));
  EXPECT_THAT(refusal_of("F0.0,B0.0\nF2.0,B2.0\n"), HasSubstr("stage 1 has no cells, but stage 2 has"));
  EXPECT_THAT(refusal_of("F0.0,B0.0\n,,\n"), HasSubstr("rank 1: has no stage"));
  EXPECT_THAT(refusal_of("F0.0,\x1b[31m" + std::string(1000000, 'x') + "\n"),
              AllOf(HasSubstr("cell 2: '?[31mxxx"), HasSubstr("xxx...' is no action"), SizeIs(Lt(500))));
  EXPECT_THROW(read_schedule("/nonexistent/schedule.csv"), ConfigError);
}

TEST_F(ScheduleCsvTest, RefusesWhatCannotBeRun) {
  const auto refused = [&](const std::string& text, const std::string& why) {
    EXPECT_THAT(refusal_of(text), AllOf(HasSubstr(path_.string()), HasSubstr(why)));
  };
  refused("F0.0,F0.0,B0.0\n", "rank 0: F0.0 is there twice");
  refused("F0.0,B0.0,W0.0\n",
          "rank 0: W0.0: stage 0 runs micro-batch 0 backward both as a whole (B) and in halves (I, W)");
  refused("F0.0,I0.0\n", "rank 0: W0.0 is missing");
  refused("F0.0,W0.0\n", "rank 0: I0.0 is missing");
  refused("F0.0,F0.1,B0.0\n", "rank 0: B0.1 is missing");
  refused("F0.0,B0.0,B0.1\n", "rank 0: F0.1 is missing");
  refused("B0.0,F0.0\n", "a deadlock; rank 0, action 1: B0.0 waits for F0.0 of rank 0");
  refused("F0.0,W0.0,I0.0\n", "rank 0, action 2: W0.0 waits for I0.0 of rank 0");
  // Each rank waits for the other.
  refused("F0.0,B0.0,F0.1,B0.1\nF1.0,F1.1,I1.0,W1.0,B1.1\n",
          "a deadlock; rank 0, action 2: B0.0 waits for I1.0 of rank 1; rank 1, action 2: F1.1 waits for "
          "F0.1 of rank 0");
}

TEST(ValidateTest, ChecksPlacesThatAFileCannotGetWrong) {
  const Schedule good = make_schedule("1f1b", 2, 1, 2);
  const auto refused = [&](const auto& change) {
    Schedule s = good;
    change(s);
    return refusal([&] { validate(s); });
  };
  EXPECT_EQ(refused([](Schedule&) {}), "accepted");
  EXPECT_THAT(refused([](Schedule& s) { s.rank_of_stage[1] = 2; }),
              HasSubstr("stage 1 is on rank 2, but there are 2 ranks"));
  EXPECT_THAT(refused([](Schedule& s) { s.ranks[0][0].stage = 7; }),
              HasSubstr("rank 0: F7.0: there are 2 stages"));
  EXPECT_THAT(refused([](Schedule& s) { s.ranks[0][0].stage = 1; }),
              HasSubstr("rank 0: F1.0: stage 1 is that of rank 1"));
  EXPECT_THAT(refused([](Schedule& s) { s.ranks[1][0].micro_batch = 9; }),
              HasSubstr("rank 1: F1.9: there are 2 micro-batches"));
  EXPECT_THAT(refused([](Schedule& s) { s.micro_batches = 0; }), HasSubstr("1 or more"));
}

}  // namespace
}  // namespace trireme
