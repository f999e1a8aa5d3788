// Recorded steps on any layout: recorded once and then replayed; where recording fails, steps are launched one by one, with
// the same results.
#include <gmock/gmock.h>

#include "tests/fake_gpu/fake_gpu.h"
#include "tests/launcher/trainer_fixture.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Ranks {
  int count;
  ParallelConfig parallel;
};

class RecordedSteps : public TrainerTest {
 protected:
  void TearDown() override { fake::fail_recordings_after(std::nullopt); }

  /// Of six steps, the third of which is recorded; and how often the backends were asked for a recording, by the end of the
  /// fourth and of the last.
  struct Outcome {
    std::vector<double> losses;
    int pieces = 0, asked = 0;
  };
  Outcome run(const char* cuda_graph, const Ranks& ranks) const {
    Config c = config(cuda_graph);
    c.run.device = "cuda";
    c.run.cuda_graph = cuda_graph;
    c.run.steps = 6;
    c.parallel = ranks.parallel;
    const int before = fake::recordings();
    Outcome outcome;
    const auto body = [&](Group& world) {
      Trainer trainer(c, world);
      for (int i = 0; i < 6; ++i) {
        const StepMetrics m = trainer.step();
        if (world.rank() == 0) outcome.losses.push_back(m.loss);
        world.barrier("step").wait();
        if (world.rank() == 0 && i == 3) outcome.pieces = fake::recordings() - before;
        world.barrier("counted").wait();
      }
    };
    ranks.count == 1 ? [&] { SoloGroup solo; body(solo); }() : LocalWorld(ranks.count).run(body);
    outcome.asked = fake::recordings() - before;
    return outcome;
  }

  const std::vector<Ranks> layouts_{{1, {}},
                                    {2, {}},
                                    {2, {.tensor = 2}},
                                    {2, {.context = 2}},
                                    {2, {.pipeline = 2, .schedule = "1f1b"}},
                                    {2, {.pipeline = 2, .schedule = "zb-v"}}};
};

TEST_F(RecordedSteps, AreRecordedOnce) {
  for (const Ranks& ranks : layouts_) {
    const Outcome launched = run("off", ranks), replayed = run("on", ranks);
    EXPECT_EQ(launched.asked, 0);
    EXPECT_GE(replayed.pieces, ranks.count == 1 ? 1 : 2 * ranks.count) << "the work between exchanges";
    EXPECT_EQ(replayed.asked, replayed.pieces);
    EXPECT_EQ(replayed.losses, launched.losses);
  }
}

TEST_F(RecordedSteps, AreThoseOfDataRanksUnlessAskedFor) {
  for (const Ranks& ranks : layouts_) {
    const bool only_data_ranks = ranks.parallel.tensor * ranks.parallel.context * ranks.parallel.pipeline == 1;
    EXPECT_EQ(run("auto", ranks).asked > 0, only_data_ranks);
  }
}

TEST_F(RecordedSteps, ThatFailedChangeNoResultAndAreTold) {
  for (const int pieces : {0, 1, 4}) {  // the last ones in the middle of exchanges
    fake::fail_recordings_after(pieces);
    for (const Ranks& ranks : layouts_) {
      if (ranks.count == 1 && pieces > 0) continue;  // whose step is one piece
      const Outcome launched = run("off", ranks);
      ::testing::internal::CaptureStdout();
      const Outcome tried = run("on", ranks);
      const std::string output = ::testing::internal::GetCapturedStdout();
      EXPECT_EQ(tried.asked, ranks.count * (pieces + 1)) << "each rank tries once";
      EXPECT_EQ(tried.losses, launched.losses);
      EXPECT_THAT(output, AllOf(HasSubstr("note: run.cuda_graph: steps are launched one by one, for recording one failed: "),
                                HasSubstr("cudaGraphInstantiate")));
    }
  }
}

}  // namespace
}  // namespace trireme
