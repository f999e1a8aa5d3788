// Layouts that can't work are refused before anything is allocated, with the numbers that would work; those that can
// are cut whole: no block is lost or added.
#include "models/parallel_plan.h"

#include <gmock/gmock.h>

#include <limits>

#include "core/error.h"
#include "models/presets.h"
#include "tests/refusal.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

ModelConfig model(int64_t layers = 6, int64_t heads = 4) {
  ModelConfig m;
  m.layers = layers, m.heads = heads, m.width = 16 * heads, m.context = 64, m.vocab = 100;
  return resolve_model(m);
}

constexpr BatchSizes kBatch{.micro = 2, .sequence = 64, .micro_batches = 4};

std::string refusal(const ModelConfig& m, const ParallelConfig& parallel, int64_t ranks, const BatchSizes& batch = kBatch) {
  return refusal_of([&] { plan_parallel(m, parallel, batch, ranks); }, "not refused");
}

TEST(ParallelPlanTest, RefusesRanksThatTheSizesDoNotDivide) {
  EXPECT_THAT(refusal(model(), {.pipeline = 2, .tensor = 2}, 6), AllOf(HasSubstr("parallel"), HasSubstr("6")));
  EXPECT_THAT(refusal(model(), {.tensor = 3}, 4), AllOf(HasSubstr("tensor"), HasSubstr("4")));
  EXPECT_THAT(refusal(model(), {.data = 2, .tensor = 2}, 2), AllOf(HasSubstr("data"), HasSubstr("2")));
}

TEST(ParallelPlanTest, RefusesMoreTensorRanksThanHeadsOrColumns) {
  EXPECT_THAT(refusal(model(6, 4), {.tensor = 5}, 5), AllOf(HasSubstr("heads"), HasSubstr("4")));
  ModelConfig narrow = model(6, 4);
  narrow.ffn = 3;
  EXPECT_THAT(refusal(narrow, {.tensor = 4}, 4), AllOf(HasSubstr("model.ffn = 3"), HasSubstr("to 3 or less")));
  ModelConfig few_words = model(6, 4);
  few_words.vocab = 3;
  EXPECT_THAT(refusal(few_words, {.tensor = 4}, 4), HasSubstr("vocab"));
}

TEST(ParallelPlanTest, RefusesTokensThatDoNotDivide) {
  EXPECT_THAT(refusal(model(), {.context = 2}, 2, {2, 62, 4}), AllOf(HasSubstr("62"), HasSubstr("context")));
  EXPECT_THAT(refusal(model(), {.tensor = 4, .sequence = true}, 4, {1, 62, 4}),
              AllOf(HasSubstr("62 rows"), HasSubstr("set batch.micro to 2 or batch.sequence to 60")));
  EXPECT_THAT(refusal(model(), {.context = 2, .tensor = 4, .sequence = true}, 8, {1, 12, 4}),
              AllOf(HasSubstr("6 rows"), HasSubstr("set batch.micro to 2 or batch.sequence to 8")));
  EXPECT_EQ(refusal(model(), {.tensor = 4, .sequence = true}, 4, {2, 62, 4}), "not refused") << "rows of both samples";
  // Numbers that are named work with the rest: the model's context, the ranks there are, the samples of a rank.
  EXPECT_THAT(refusal(model(), {.context = 3}, 3, {2, 64, 4}), AllOf(HasSubstr("set batch.sequence to 60, or parallel.context to 1"),
                                                                    Not(HasSubstr("66"))));
  EXPECT_THAT(refusal(model(6, 3), {.tensor = 3, .sequence = true}, 3, {16, 64, 1}),
              AllOf(HasSubstr("ranks; set batch.sequence to 63 or parallel.sequence to false"), Not(HasSubstr("micro to"))));
  EXPECT_THAT(refusal(model(6, 3), {.tensor = 3, .sequence = true}, 3, {2, 64, 3}), HasSubstr("set batch.micro to 3"));
  EXPECT_EQ(refusal(model(), {.tensor = 4}, 4, {1, 62, 4}), "not refused");
}

TEST(ParallelPlanTest, RefusesMoreStagesThanUnitsAndStagesThatDoNotAddUp) {
  EXPECT_THAT(refusal(model(2), {.pipeline = 5, .schedule = "1f1b"}, 5), HasSubstr("5"));
  EXPECT_THAT(refusal(model(1), {.pipeline = 2, .schedule = "zb-v"}, 2),
              AllOf(HasSubstr("4 pipeline stages"), HasSubstr("1 to 3 stages work, or 2 layers for these"), HasSubstr("zb-v")));
  EXPECT_THAT(refusal(model(), {.pipeline = 2, .schedule = "1f1b", .stages = {3, 4}}, 2),
              AllOf(HasSubstr("7"), HasSubstr("6")));
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  EXPECT_THAT(refusal(model(), {.pipeline = 3, .schedule = "1f1b", .stages = {kHuge, kHuge, 8}}, 3),
              HasSubstr("the model has 6"));
  EXPECT_THAT(refusal(model(), {.pipeline = 2, .schedule = "1f1b", .stages = {6}}, 2), HasSubstr("2"));
  EXPECT_THAT(refusal(model(), {.pipeline = 2, .schedule = "1f1b", .chunks = 2}, 2), HasSubstr("1f1b"));
  EXPECT_THAT(refusal(model(), {.pipeline = 2, .schedule = "zbv"}, 2), HasSubstr("zb-v"));
}

// 30 blocks on 4 stages are 30 blocks: schedules that cut evenly would build 28.
TEST(ParallelPlanTest, CutsLoseNoUnit) {
  for (const int64_t layers : {6, 7, 30})
    for (const ParallelConfig& parallel : std::vector<ParallelConfig>{{.pipeline = 4, .schedule = "1f1b"},
                                                                      {.pipeline = 3, .schedule = "zb-h1"},
                                                                      {.pipeline = 2, .schedule = "zb-v"},
                                                                      {.pipeline = 2, .schedule = "interleaved", .chunks = 3}}) {
      const ParallelPlan plan = plan_parallel(model(layers), parallel, kBatch, parallel.pipeline);
      ASSERT_EQ(plan.first_unit.size(), static_cast<size_t>(plan.num_stages()) + 1);
      EXPECT_EQ(plan.first_unit.front(), 0);
      EXPECT_EQ(plan.first_unit.back(), layers + 2) << "embedding, blocks, classifier";
      for (int64_t stage = 0; stage < plan.num_stages(); ++stage)
        EXPECT_LT(plan.units_of(stage).begin, plan.units_of(stage).end) << layers << " layers, stage " << stage;
    }
}

TEST(ParallelPlanTest, GivenStagesAreTaken) {
  const ParallelPlan plan =
      plan_parallel(model(), {.pipeline = 4, .schedule = "1f1b", .stages = {1, 2, 2, 1}}, kBatch, 8);
  EXPECT_EQ(plan.first_unit, (std::vector<int64_t>{0, 2, 4, 6, 8}));
  EXPECT_EQ(plan.mesh.size(Axis::data), 2);
}

}  // namespace
}  // namespace trireme
