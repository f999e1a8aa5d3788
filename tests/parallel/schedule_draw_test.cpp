// Drawings of timelines, and timelines from traces.
#include "parallel/schedule/draw.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "core/trace.h"
#include "parallel/schedule/read_trace.h"
#include "parallel/schedule/simulate.h"
#include "tests/temporary_folder.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Timeline simulated(std::string_view name, int ranks, int chunks, int micro_batches, double backward = 1.0) {
  const Schedule s = make_schedule(name, ranks, chunks, micro_batches);
  return simulate(s, PassTimes::uniform(s.num_stages(), 1.0, backward, backward));
}

size_t count(const std::string& text, std::string_view part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST(DrawTextTest, IsTheScheduleToTheEye) {
  EXPECT_EQ(draw_text(simulated("1f1b", 2, 1, 2)),
            "rank 0 F0F1....B0==..B1==\n"
            "rank 1 ..F0B0==F1B1==....\n");
  EXPECT_EQ(draw_text(simulated("zb-h1", 2, 1, 2)),
            "rank 0 F0F1..I0W0I1W1\n"
            "rank 1 ..F0I0F1I1W0W1\n");
  // The second stage of a rank has small letters.
  EXPECT_EQ(draw_text(simulated("zb-v", 1, 2, 1)), "rank 0 F0f0i0w0I0W0\n");
}

TEST(DrawTextTest, ScalesToTheColumns) {
  const Timeline t = simulated("interleaved", 8, 3, 64);
  std::istringstream rows(draw_text(t));
  int ranks = 0;
  for (std::string row; std::getline(rows, row); ++ranks) EXPECT_LE(row.size(), 160U);
  EXPECT_EQ(ranks, 8);
  EXPECT_EQ(draw_text(simulated("gpipe", 2, 1, 2, 0.5), 13),  // too narrow for numbers
            "rank 0 FF..BB\n"
            "rank 1 .FFBB.\n");
  EXPECT_EQ(draw_text({}), "");
}

TEST(DrawSvgTest, HasEveryActionLegendAndTitle) {
  const Timeline t = simulated("1f1b", 4, 1, 8);
  const Panel panel{"1f1b <4>", t, "passes"};
  const std::string svg = draw_svg(std::span(&panel, 1));
  EXPECT_THAT(svg, HasSubstr("1f1b &lt;4&gt;: bubble 27.3 %, peak 4 micro-batches a rank"));  // 3 / 11
  EXPECT_EQ(count(svg, "<title>F"), 4U * 8U);
  EXPECT_EQ(count(svg, "<title>B"), 4U * 8U);
  EXPECT_THAT(svg, HasSubstr("<title>F3.0: 3 to 4 passes</title>"));
  EXPECT_THAT(svg, HasSubstr("33 passes"));
  EXPECT_THAT(svg, HasSubstr("B backward</text>"));
  EXPECT_THAT(svg, Not(HasSubstr("W backward, weight")));  // the legend has what is there
  EXPECT_EQ(count(svg, "<svg"), count(svg, "</svg>"));
  EXPECT_EQ(count(svg, "<text"), count(svg, "</text>"));
}

TEST(DrawSvgTest, PanelsOfOneUnitShareTheScale) {
  const std::vector<Panel> same{{"a", simulated("zb-v", 2, 2, 4), "ms"},
                                {"b", simulated("zb-v", 2, 2, 8), "ms"}};
  std::vector<Panel> other = same;
  other[0].unit = "passes";
  const auto width_of_first = [](const std::string& svg) {  // the grey box of the first panel's first rank
    const size_t at = svg.find("width=\"", svg.find("rank 0"));
    return std::stod(svg.substr(at + 7));
  };
  EXPECT_NEAR(width_of_first(draw_svg(other)), 1200.0, 1e-6);
  EXPECT_NEAR(width_of_first(draw_svg(same)), 1200.0 * same[0].timeline.makespan / same[1].timeline.makespan,
              0.01);
  EXPECT_EQ(count(draw_svg(same), "rank 1"), 2U);
}

class ReadTraceTest : public ::testing::Test {
 protected:
  std::filesystem::path path(int rank) const { return folder_ / fmt::format("trace-{}.json", rank); }
  std::string refusal(int64_t step) {
    try {
      read_trace(std::vector{path(0)}, step);
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "accepted";
  }
  TemporaryFolder folder_;
};

/// As the executor writes it: each action is a span, and there are spans of other things around them.
void record(Tracer& tracer, const Timeline& t, int rank, int64_t begin_us) {
  tracer.add(Tracer::Lane::step, "forward", begin_us, begin_us + 5);
  for (const TimedAction& a : t.actions)
    if (a.rank == rank)
      tracer.add(Tracer::Lane::compute, to_string(a.action), begin_us + static_cast<int64_t>(a.begin * 1000),
                 begin_us + static_cast<int64_t>(a.end * 1000));
}

TEST_F(ReadTraceTest, GivesBackWhatRanksRecorded) {
  const Schedule s = make_schedule("zb-v", 3, 2, 4);
  const Timeline first = simulate(s, PassTimes::uniform(6, 1.0, 1.0, 1.0));
  const Timeline second = simulate(s, PassTimes::uniform(6, 2.0, 3.0, 1.0));
  std::vector<std::filesystem::path> files;
  for (int rank = 0; rank < 3; ++rank) {
    Tracer tracer(rank, "a rank");
    tracer.set_recording(true);
    record(tracer, first, rank, 5'000'000);
    record(tracer, second, rank, 6'000'000);
    tracer.write(path(rank));
    files.push_back(path(rank));
  }
  for (const auto& [step, recorded] : {std::pair{0, first}, {1, second}}) {
    const Timeline t = read_trace(files, step);
    ASSERT_EQ(t.actions.size(), recorded.actions.size());
    for (size_t i = 0; i < t.actions.size(); ++i) {
      EXPECT_EQ(t.actions[i].rank, recorded.actions[i].rank);
      EXPECT_EQ(t.actions[i].action, recorded.actions[i].action);
      EXPECT_NEAR(t.actions[i].begin, recorded.actions[i].begin, 1e-6);
      EXPECT_NEAR(t.actions[i].end, recorded.actions[i].end, 1e-6);
    }
    EXPECT_NEAR(t.bubble_share, recorded.bubble_share, 1e-6);
    EXPECT_EQ(t.peak_activations(), recorded.peak_activations());
  }
  // The measured times, put back into the schedule, give the run again.
  const Timeline again = simulate(s, median_times(read_trace(files, 1), 6));
  EXPECT_NEAR(again.makespan, second.makespan, 1e-6);
}

TEST_F(ReadTraceTest, TakesWhatADeviceDidAndNotWhenItWasQueued) {
  Tracer tracer(0, "a rank");
  tracer.set_recording(true);
  for (const auto& [lane, begin_us] : {std::pair{Tracer::Lane::step, 100}, {Tracer::Lane::device_step, 7000}}) {
    tracer.add(lane, "F0.0", begin_us, begin_us + 10);
    tracer.add(lane, "B0.0", begin_us + 3000, begin_us + 5000);
  }
  tracer.write(path(0));
  const Timeline t = read_trace(std::vector{path(0)}, 0);
  ASSERT_EQ(t.actions.size(), 2U);
  EXPECT_NEAR(t.makespan, 5.0, 1e-6);
  EXPECT_THAT(refusal(1), HasSubstr("is there 1 times")) << "of the device's";
}

TEST_F(ReadTraceTest, RefusesWhatIsNoPipelineTrace) {
  std::ofstream(path(0)) << "not json";
  EXPECT_THAT(refusal(0), HasSubstr("trace-0.json: not a trace"));
  std::ofstream(path(0)) << R"({"traceEvents": [{"ph": "X", "name": "F0.0", "dur": 3}]})";
  EXPECT_THAT(refusal(0), HasSubstr("trace-0.json: not a trace"));
  std::ofstream(path(0)) << R"({"traceEvents": [{"ph": "X", "name": "forward", "ts": 1, "dur": 3}]})";
  EXPECT_THAT(refusal(0), HasSubstr("no spans of a pipeline's actions"));
  std::ofstream(path(0)) << R"({"traceEvents": [{"ph": "X", "name": "F0.0", "ts": 1, "dur": 3}]})";
  EXPECT_EQ(refusal(0), "accepted");
  EXPECT_THAT(refusal(1), HasSubstr("F0.0 is there 1 times"));
  EXPECT_THROW(read_trace(std::vector{folder_ / "none.json"}, 0), ConfigError);
}

TEST(MedianTimesTest, SplitsWholeBackwardsAndTakesTheMiddle) {
  const Action f{ActionKind::forward, 0, 0}, b{ActionKind::backward, 0, 0},
      i{ActionKind::backward_input, 1, 0};
  const Timeline t = make_timeline(
      {{0, f, 0, 1}, {0, f, 1, 3}, {0, f, 3, 103}, {0, b, 103, 107}, {1, i, 0, 3}, {1, i, 5, 6}}, 2);
  const PassTimes times = median_times(t, 2);
  EXPECT_EQ(times.forward, (std::vector<double>{2, 0}));
  EXPECT_EQ(times.backward_input, (std::vector<double>{2, 2}));
  EXPECT_EQ(times.backward_weight, (std::vector<double>{2, 0}));
}

}  // namespace
}  // namespace trireme
