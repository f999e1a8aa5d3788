// Generation on every layout: the logits after each token, and what each rank keeps for them.
#include <cmath>

#include "models/memory_estimate.h"
#include "tests/models/generation_runs.h"
#include "tests/refusal.h"

namespace trireme {
namespace {

class GenerationTest : public ::testing::TestWithParam<GenerationCase> {
 protected:
  static constexpr int64_t kContext = GenerationRuns::kContext, kTexts = GenerationRuns::kTexts;
  const GenerationRuns runs_{[](int) { return make_cpu_backend(1); }};
};

TEST_P(GenerationTest, LogitsAreThoseOfOneRank) {
  for (const int64_t prompt : {1, 2, 5, 8, 13, 24})
    runs_.expect_logits_of_one_rank(GetParam(), prompt, GetParam().dtype == DType::f32 ? 1e-5f : 2e-2f);
}

TEST_P(GenerationTest, RanksKeepTheirShareOfTheKeysAlone) {
  runs_.with_model(GetParam(), [&](Context& ctx, ParallelModel& model) {
    const int64_t ranks = model.model().layout().context_size();
    GenerationCache cache = model.model().make_cache(ctx, kTexts);
    runs_.next_logits(ctx, model, 0, 12, cache);
    for (int64_t t = 12; t < kContext; ++t) runs_.next_logits(ctx, model, t, t + 1, cache);
    for (const LayerCache& layer : cache.layers) {
      if (layer.whole.keys.defined()) {
        EXPECT_EQ(layer.whole.length, kContext);
      }
      if (!layer.part.kv.defined()) continue;
      EXPECT_GT(ranks, 1);
      EXPECT_NEAR(static_cast<double>(layer.part.length), static_cast<double>(kContext / ranks), 2.0);
      EXPECT_EQ(layer.part.capacity, kContext / ranks + 3);
    }
  });
}

TEST_P(GenerationTest, RanksHoldWhatTheyWereEstimatedToHold) {
  const double share = GetParam().dtype == DType::f32 ? 1.0 : 0.5;  // of f32, which models are used in
  runs_.with_model(GetParam(), [&](Context& ctx, ParallelModel& model) {
    double weights = 0.0, keys = 0.0;
    for (const Parameter* p : model.parameters()) weights += static_cast<double>(p->data.bytes());
    for (const LayerCache& layer : model.model().make_cache(ctx, 1).layers)
      for (const Tensor* t : {&layer.whole.keys, &layer.whole.values, &layer.part.kv})
        if (t->defined()) keys += static_cast<double>(t->bytes());
    const auto estimate = [&](bool generates, int64_t rank) {
      return share * estimate_inference_memory(runs_.config(), model.plan(), generates, rank);
    };
    // Each rank's own estimate is the one that has a stage of its size.
    const int64_t stages = model.plan().mesh.size(Axis::pipeline);
    bool weights_found = false, keys_found = false;
    for (int64_t rank = 0; rank < stages; ++rank) {
      weights_found |= std::abs(estimate(false, rank) / weights - 1) < 0.05;
      keys_found |= std::abs((estimate(true, rank) - estimate(false, rank)) / keys - 1) < 1e-6;
    }
    EXPECT_TRUE(weights_found) << weights << " bytes";
    EXPECT_TRUE(keys_found) << keys << " bytes";
  });
}

TEST_P(GenerationTest, LongerTextsThanTheContextAreRefused) {
  runs_.with_model(GetParam(), [&](Context& ctx, ParallelModel& model) {
    GenerationCache cache = model.model().make_cache(ctx, kTexts);
    runs_.next_logits(ctx, model, 0, kContext, cache);
    EXPECT_THAT(refusal_of([&] { runs_.next_logits(ctx, model, 0, 1, cache); }),
                testing::HasSubstr("24 tokens and 1 new ones exceed the model's context of 24"));
  });
}

const GenerationCase kCases[] = {
    {"one", {}, 1},
    {"tensor2", {.tensor = 2}, 2},
    {"context2", {.context = 2}, 2},
    {"context2_bf16", {.context = 2}, 2, DType::bf16},
    {"context3", {.context = 3}, 3},
    {"context4", {.context = 4}, 4},
    {"context2_tensor2", {.context = 2, .tensor = 2}, 4},
    {"context2_pipeline2", {.context = 2, .pipeline = 2}, 4},
    {"context2_twice", {.context = 2}, 4},
};
INSTANTIATE_TEST_SUITE_P(All, GenerationTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace trireme
