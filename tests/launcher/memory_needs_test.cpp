// What a plan says of each rank's memory is what the rank then takes; what doesn't fit is refused with what would.
#include <gmock/gmock.h>

#include <sstream>

#include "comm/local/local_world.h"
#include "launcher/memory_check.h"
#include "launcher/trainer.h"
#include "tests/temporary_folder.h"
#include "tests/launcher/token_file.h"
#include "tests/refusal.h"

namespace trireme {
namespace {

struct Case {
  const char* name;
  int ranks;
  ParallelConfig parallel;
  const char* recompute = "none";
  const char* compute = "f32";
};
std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

Config config(const std::filesystem::path& folder, const Case& layout) {
  Config c;
  c.model.layers = 6, c.model.heads = 4, c.model.width = 64, c.model.context = 128, c.model.vocab = 256;
  c.model.recompute = layout.recompute;
  c.data.train = {{(folder / "train.bin").string(), 1.0}};
  c.batch.global = 16, c.batch.micro = 2;
  c.parallel = layout.parallel;
  c.precision.compute = layout.compute;
  c.run.steps = 2;
  c.run.device = "cpu";
  c.run.threads = 1;
  c.run.out = (folder / "run").string();
  c.run.tensorboard = false;
  c.checkpoint.every = 0;
  return c;
}

class MemoryNeedsTest : public ::testing::TestWithParam<Case> {};

TEST_P(MemoryNeedsTest, AreWhatTheRanksTake) {
  const TemporaryFolder folder;
  write_token_file(folder / "train.bin", 4001, squares(200));
  const int ranks = GetParam().ranks;
  const Config c = config(folder.path(), GetParam());
  const RunPlan plan = plan_run(c, ranks);
  LocalWorld(ranks).run([&](Group& world) {
    ASSERT_EQ(world.size(), ranks);
    Trainer trainer(c, world);
    trainer.step();
    trainer.step();
    const MemoryStats taken = trainer.memory();
    const int64_t pipeline = plan.layout.mesh.coords_of(world.rank())[static_cast<size_t>(Axis::pipeline)];
    const MemoryNeeds needs = memory_needs(plan, pipeline);
    const auto expect_near = [&](MemoryClass memory, double expected, double above, double below) {
      const auto found = static_cast<double>(taken.peak(memory));
      EXPECT_LE(found, expected * above) << name_of(memory) << " of rank " << world.rank();
      EXPECT_GE(found, expected * below) << name_of(memory) << " of rank " << world.rank();
    };
    expect_near(MemoryClass::parameters, needs.parameters, 1.05, 0.95);
    expect_near(MemoryClass::gradients, needs.gradients, 1.05, 0.95);
    expect_near(MemoryClass::optimizer, needs.optimizer, 1.05, 0.95);
    expect_near(MemoryClass::activations, needs.activations, 1.25, 0.75);
  });
}

const Case kCases[] = {
    {"one", 1, {}},
    {"one_bf16", 1, {}, "none", "bf16"},
    {"one_selective", 1, {}, "selective"},
    {"one_recompute", 1, {}, "full"},
    {"tensor2", 2, {.tensor = 2}},
    {"sequence4", 4, {.tensor = 4, .sequence = true}},
    {"gpipe2", 2, {.pipeline = 2, .schedule = "gpipe"}},
    {"one_f_one_b3", 3, {.pipeline = 3, .schedule = "1f1b"}},
    {"zb_h1_3", 3, {.pipeline = 3, .schedule = "zb-h1"}},
    {"zb_v2", 2, {.pipeline = 2, .schedule = "zb-v"}},
    {"interleaved2", 2, {.pipeline = 2, .schedule = "interleaved"}},
    {"context2", 2, {.context = 2}},
    {"zb_h1_3_recompute", 3, {.pipeline = 3, .schedule = "zb-h1"}, "full"},
    {"zb_v2_recompute", 2, {.pipeline = 2, .schedule = "zb-v"}, "full"},
    {"recompute_pipeline2_sequence2", 4, {.pipeline = 2, .tensor = 2, .sequence = true, .schedule = "1f1b"}, "full"},
};
INSTANTIATE_TEST_SUITE_P(Layouts, MemoryNeedsTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

std::string refusal(const RunPlan& plan, double available_bytes) {
  return refusal_of([&] { check_memory(plan, available_bytes); }, "fits");
}

TEST(MemoryCheckTest, AModelThatIsOnlyUsedMustFitToo) {
  const RunPlan plan = plan_run(config("nowhere", {"", 1, {}}), 1, /*needs_data=*/false);
  const double weights = estimate_inference_memory(plan.config.model, plan.layout, /*generates=*/false, 0);
  const auto told = [&](bool generates, double bytes) {
    return refusal_of([&] { check_inference_memory(plan.config.model, plan.layout, generates, bytes); }, "fits");
  };
  EXPECT_EQ(told(false, weights), "fits");
  EXPECT_EQ(told(true, 0), "fits") << "it is not known";
  EXPECT_THAT(told(true, weights), ::testing::AllOf(::testing::HasSubstr("GiB for weights, keys and values and has"),
                                                    ::testing::HasSubstr("--tensor or --pipeline")));
}

TEST(MemoryCheckTest, NamesChangesWithWhichItFits) {
  Config c = config("nowhere", {"", 1, {}});
  c.model.vocab = 256;
  c.batch.micro = 8, c.batch.global = 64;
  const RunPlan plan = plan_run(c, 4, /*needs_data=*/false);
  const double needed = memory_needs(plan, 0).total();
  EXPECT_EQ(refusal(plan, needed), "fits");
  const std::string part = refusal(plan, 0.7 * needed);
  EXPECT_THAT(part, ::testing::AllOf(::testing::HasSubstr("any of these fits: "), ::testing::HasSubstr("parallel.tensor: 2"),
                                     ::testing::HasSubstr("batch.micro: 4")));
  c.parallel.tensor = 2;
  EXPECT_EQ(refusal(plan_run(c, 4, false), 0.7 * needed), "fits");
  EXPECT_THAT(refusal(plan, 1e3), ::testing::HasSubstr("no change of"));
}

TEST(MemoryCheckTest, WhatItNamesFitsByThePlansOwnNumbers) {
  Config c = config("nowhere", {"", 1, {}});
  c.model.vocab = 256;
  c.batch.micro = 8, c.batch.global = 64;
  const double needed = memory_needs(plan_run(c, 4, false), 0).total();
  int singles = 0, pairs = 0;
  for (double share = 0.02; share < 0.95; share += 0.03) {
    const std::string text = refusal(plan_run(c, 4, false), share * needed);
    const size_t begin = text.find("any of these fits: ");
    if (begin == std::string::npos) continue;
    std::istringstream ways(text.substr(begin + std::string("any of these fits: ").size()));
    for (std::string way; std::getline(ways, way, ';');) {
      Config with = c;
      const auto apply = [&](std::string change) {
        change.erase(0, change.find_first_not_of(' '));
        const std::string value = change.substr(change.find(": ") + 2);
        if (change.starts_with("batch.micro")) with.batch.micro = std::stoll(value);
        if (change.starts_with("model.recompute")) with.model.recompute = value;
        if (change.starts_with("parallel.sequence")) with.parallel.sequence = true;
        if (change.starts_with("parallel.tensor")) with.parallel.tensor = std::stoll(value);
        if (change.starts_with("parallel.pipeline")) with.parallel.pipeline = std::stoll(value);
      };
      const size_t second = way.find(" with ");
      apply(way.substr(0, second));
      if (second != std::string::npos) apply(way.substr(second + 6));
      ++(second == std::string::npos ? singles : pairs);
      const RunPlan plan = plan_run(with, 4, false);
      double most = 0.0;
      for (int64_t rank = 0; rank < plan.layout.mesh.size(Axis::pipeline); ++rank) most = std::max(most, memory_needs(plan, rank).total());
      EXPECT_LE(most, share * needed) << way;
    }
  }
  EXPECT_GT(singles, 3);
  EXPECT_GT(pairs, 1);
}

}  // namespace
}  // namespace trireme
