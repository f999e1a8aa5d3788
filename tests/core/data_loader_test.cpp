// Batches: how they divide, that their content depends on seed and step alone, and the order of evaluation.
#include "core/data/loader.h"

#include "core/data/batch_plan.h"
#include "core/data/evaluation_loader.h"
#include "tests/core/data_fixture.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(BatchPlan, Divides) {
  const BatchPlan plan = plan_batch(48, 4, 3);
  EXPECT_EQ(plan.local_samples, 16);
  EXPECT_EQ(plan.micro_batches, 4);
}

TEST(BatchPlan, SaysWhichNumbersWork) {
  EXPECT_EQ(
      error_of([] { plan_batch(10, 4, 2); }),
      "batch.global = 10 does not divide into micro-batches of 4 on 2 ranks: use 8 or 16, or batch.micro 5");
  EXPECT_THAT(error_of([] { plan_batch(7, 2, 2); }), HasSubstr("use 4 or 8"));
  EXPECT_THAT(error_of([] { plan_batch(3, 4, 1); }), HasSubstr("use 4, or batch.micro 3"));
  EXPECT_THAT(error_of([] { plan_batch(0, 4, 1); }), HasSubstr("from 1 to"));
  EXPECT_THAT(error_of([] { plan_batch(8, 0, 1); }), HasSubstr("from 1 to"));
  EXPECT_THAT(error_of([] { plan_batch(8, int64_t{1} << 62, 4); }), HasSubstr("from 1 to"));
}

std::vector<WeightedDataset> sources() {
  return {dataset_of(counting(0, 101), 3.0), dataset_of(counting(1000, 51), 1.0)};
}

BatchGeometry geometry(int64_t rank = 0, int64_t size = 1) {
  return {.global = 8, .micro = 2, .sequence = 4, .vocab = 2000, .data_rank = rank, .data_size = size};
}

TEST(Loader, InOrderStepTakesTheNextSamples) {
  Loader loader({dataset_of(counting(0, 81))}, geometry(), {.shuffle = false});  // 20 samples
  for (int64_t step = 1; step <= 6; ++step) {
    Batch batch = loader.next();
    EXPECT_EQ(batch.step, step);
    EXPECT_EQ(batch.num_samples, 8);
    EXPECT_EQ(batch.num_targets, 32);
    for (int64_t i = 0; i < 8; ++i) {
      const auto first = static_cast<int32_t>(((step - 1) * 8 + i) % 20 * 4);
      EXPECT_THAT(batch.tokens_of(i), ElementsAre(first, first + 1, first + 2, first + 3));
      EXPECT_THAT(batch.targets_of(i), ElementsAre(first + 1, first + 2, first + 3, first + 4));
    }
  }
}

TEST(Loader, RanksTogetherHaveTheStepOfOneRank) {
  for (const int64_t size : {1, 2, 4}) {
    Loader whole(sources(), geometry(), {.seed = 5});
    std::vector<std::unique_ptr<Loader>> parts;
    for (int64_t rank = 0; rank < size; ++rank)
      parts.push_back(std::make_unique<Loader>(sources(), geometry(rank, size), LoaderOptions{.seed = 5}));
    for (int step = 0; step < 10; ++step) {
      std::vector<int32_t> tokens, targets;
      for (int64_t rank = 0; rank < size; ++rank) {
        const Batch part = parts[static_cast<size_t>(rank)]->next();
        EXPECT_EQ(part.first_sample, rank * 8 / size);
        EXPECT_EQ(part.num_samples, 8 / size);
        tokens.insert(tokens.end(), part.tokens.begin(), part.tokens.end());
        targets.insert(targets.end(), part.targets.begin(), part.targets.end());
      }
      const Batch batch = whole.next();
      EXPECT_EQ(tokens, batch.tokens);
      EXPECT_EQ(targets, batch.targets);
    }
  }
}

TEST(Loader, ResumesAtAnyStepWhateverThePrefetch) {
  Loader from_start(sources(), geometry(), {.seed = 3, .prefetch = 0});
  std::vector<std::vector<int32_t>> steps;
  for (int i = 0; i < 12; ++i) steps.push_back(from_start.next().tokens);
  EXPECT_NE(steps[0], steps[1]);
  for (const int prefetch : {0, 1, 3}) {
    Loader resumed(sources(), geometry(), {.seed = 3, .prefetch = prefetch, .first_step = 6});
    for (size_t i = 5; i < 12; ++i) {
      const Batch batch = resumed.next();
      EXPECT_EQ(batch.step, static_cast<int64_t>(i) + 1);
      EXPECT_EQ(batch.tokens, steps[i]);
    }
  }
  EXPECT_NE(Loader(sources(), geometry(), {.seed = 4}).next().tokens, steps[0]);
}

TEST(Loader, ErrorsComeOutOfNextInTheirStep) {
  std::vector<int32_t> tokens = counting(0, 81);
  tokens[70] = 5000;  // in sample 17, which step 3 takes
  for (const int prefetch : {0, 2}) {
    Loader loader({dataset_of(tokens)}, geometry(), {.shuffle = false, .prefetch = prefetch});
    EXPECT_NO_THROW(loader.next());
    EXPECT_NO_THROW(loader.next());
    EXPECT_THAT(error_of([&] { loader.next(); }), HasSubstr("token 70 is 5000"));
    EXPECT_THAT(error_of([&] { loader.next(); }), HasSubstr("token 70 is 5000"));
  }
}

TEST(Loader, EndsWhileItsThreadWaits) {
  for (int i = 0; i < 20; ++i) {
    Loader loader(sources(), geometry(), {.prefetch = 2});
    if (i % 2) loader.next();
  }
}

TEST(EvaluationLoader, GivesEverySampleOnceWithPadding) {
  for (const int64_t size : {1, 2, 4}) {
    std::vector<int32_t> firsts;
    int64_t targets = 0;
    for (int64_t rank = 0; rank < size; ++rank) {
      // 11 samples and 3 samples; 14 make 7, 4 and 2 batches.
      EvaluationLoader loader({dataset_of(counting(0, 45)), dataset_of(counting(1000, 13))},
                              geometry(rank, size));
      EXPECT_EQ(loader.num_batches(), size == 1 ? 7 : size == 2 ? 4 : 2);
      int64_t batches = 0;
      while (auto batch = loader.next()) {
        ++batches;
        EXPECT_EQ(batch->tokens.size(), 8u);
        targets += batch->num_targets;
        EXPECT_EQ(std::ranges::count_if(batch->targets, [](int32_t t) { return t >= 0; }),
                  batch->num_targets);
        for (int64_t i = 0; i < batch->num_samples; ++i)
          if (batch->targets_of(i)[0] >= 0) firsts.push_back(batch->tokens_of(i)[0]);
      }
      EXPECT_EQ(batches, loader.num_batches());
      loader.rewind();
      EXPECT_TRUE(loader.next().has_value());
    }
    EXPECT_EQ(targets, 14 * 4);
    std::ranges::sort(firsts);
    EXPECT_THAT(firsts, ElementsAre(0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 1000, 1004, 1008));
  }
}

TEST(EvaluationLoader, StopsAfterTheWantedSamplesOnAnyNumberOfRanks) {
  for (const int64_t size : {1, 2, 4}) {
    std::vector<int32_t> firsts;
    for (int64_t rank = 0; rank < size; ++rank) {
      EvaluationLoader loader({dataset_of(counting(0, 45))}, geometry(rank, size), 5);
      EXPECT_EQ(loader.num_batches(), size == 1 ? 3 : size == 2 ? 2 : 1);
      while (auto batch = loader.next())
        for (int64_t i = 0; i < batch->num_samples; ++i)
          if (batch->targets_of(i)[0] >= 0) firsts.push_back(batch->tokens_of(i)[0]);
    }
    std::ranges::sort(firsts);
    EXPECT_THAT(firsts, ElementsAre(0, 4, 8, 12, 16));
  }
}

}  // namespace
}  // namespace trireme
