// Where recording a step fails, steps are launched one by one, with the same results.
#include <gmock/gmock.h>

#include "tests/fake_gpu/fake_gpu.h"
#include "tests/launcher/trainer_fixture.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

class FailedRecording : public TrainerTest {
 protected:
  std::vector<double> losses(const char* cuda_graph, int ranks) const {
    Config c = config(cuda_graph);
    c.run.device = "cuda";
    c.run.cuda_graph = cuda_graph;
    c.run.steps = 6;
    std::vector<double> all;
    const auto body = [&](Group& world) {
      Trainer trainer(c, world);
      for (int i = 0; i < 6; ++i) {
        const StepMetrics m = trainer.step();
        if (world.rank() == 0) all.push_back(m.loss);
      }
    };
    ranks == 1 ? [&] { SoloGroup solo; body(solo); }() : LocalWorld(ranks).run(body);
    return all;
  }
};

TEST_F(FailedRecording, ChangesNoResultAndIsTold) {
  for (const int ranks : {1, 2}) {
    const std::vector<double> launched = losses("off", ranks);
    const int before = fake::recordings();
    ::testing::internal::CaptureStdout();
    const std::vector<double> tried = losses("auto", ranks);
    const std::string output = ::testing::internal::GetCapturedStdout();
    EXPECT_EQ(fake::recordings(), before + ranks) << "each rank tries once";
    EXPECT_EQ(tried, launched);
    EXPECT_THAT(output, HasSubstr("note: run.cuda_graph: steps are launched one by one, for recording one failed: cudaGraphInstantiate"));
  }
}

}  // namespace
}  // namespace trireme
