// docs/pipeline.md shows what the code does, and the example file is what it says.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "core/files.h"
#include "parallel/schedule/draw.h"
#include "parallel/schedule/schedule_csv.h"
#include "parallel/schedule/simulate.h"
#include "tests/temporary_folder.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

const std::filesystem::path kRoot = TRIREME_SOURCE_DIR;

/// The page's example: 4 ranks, 8 micro-batches; a rank takes 1 for F, I and W each.
std::vector<Panel> example() {
  std::vector<Panel> panels;
  for (const std::string& name : schedule_names()) {
    const int64_t chunks = name == "interleaved" || name == "zb-v" ? 2 : 1;
    const Schedule s = make_schedule(name, 4, chunks, 8);
    const double time = 1.0 / static_cast<double>(chunks);
    panels.push_back({name, simulate(s, PassTimes::uniform(s.num_stages(), time, time, time)), "F"});
  }
  return panels;
}

TEST(PipelineDocsTest, PageHasTheDrawings) {
  const std::string page = read_text(kRoot / "docs/pipeline.md");
  for (const Panel& panel : example())
    EXPECT_THAT(page, HasSubstr(fmt::format("\n{}: bubble {:.1f} %, peak {:.3g} micro-batches a rank\n{}",
                                            panel.title, 100.0 * panel.timeline.bubble_share,
                                            panel.timeline.peak_micro_batches(), draw_text(panel.timeline))));
}

TEST(PipelineDocsTest, PictureIsTheDrawing) {
  const std::string wanted = draw_svg(example());
  if (read_text(kRoot / "docs/pipeline.svg") == wanted) return;
  const auto file = std::filesystem::temp_directory_path() / "pipeline.svg";
  std::ofstream(file) << wanted;
  FAIL() << "docs/pipeline.svg is not what draw_svg makes; look at " << file
         << ", and copy it there if it is right";
}

TEST(PipelineDocsTest, PagesFileIsASchedule) {
  const std::string page = read_text(kRoot / "docs/pipeline.md");
  const size_t begin = page.find("```\n# rank 0 has") + 4;
  ASSERT_NE(begin, std::string::npos + 4);
  const TemporaryFolder folder;
  const auto file = folder / "page.csv";
  std::ofstream(file) << page.substr(begin, page.find("```", begin) - begin);
  const Schedule s = read_schedule(file);
  EXPECT_EQ(s.num_ranks(), 2);
  EXPECT_EQ(s.micro_batches, 2);
  EXPECT_EQ(to_string(s.ranks[1][1]), "I1.0");
}

TEST(PipelineDocsTest, EagerExampleHidesMessagesForMemory) {
  const Schedule eager = read_schedule(kRoot / "configs/schedules/eager-1f1b-4x8.csv");
  const Schedule plain = make_schedule("1f1b", 4, 1, 8);
  ASSERT_EQ(eager.num_ranks(), 4);
  ASSERT_EQ(eager.micro_batches, 8);
  const auto run = [](const Schedule& s, double transfer) {
    return simulate(s, PassTimes::uniform(4, 1, 1, 1, transfer));
  };
  EXPECT_DOUBLE_EQ(run(eager, 0.0).makespan, run(plain, 0.0).makespan);
  EXPECT_LT(run(eager, 0.25).makespan, run(plain, 0.25).makespan - 1.0);
  EXPECT_EQ(run(eager, 0.25).peak_activations(), 7);
  EXPECT_EQ(run(plain, 0.25).peak_activations(), 4);
}

}  // namespace
}  // namespace trireme
