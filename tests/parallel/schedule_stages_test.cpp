// Cutting a model into stages: against every possible cut, by hand, and refusals.
#include "parallel/schedule/stages.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <random>

#include "core/error.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <class Call>
std::string refusal(const Call& call) {
  try {
    call();
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "accepted";
}

double largest(const std::vector<double>& costs) {
  return *std::max_element(costs.begin(), costs.end());
}

/// The least largest stage over all cuts of units [begin, end of costs).
double least_by_search(const std::vector<double>& costs, size_t begin, int64_t stages) {
  double sum = 0.0;
  if (stages == 1) {
    for (size_t i = begin; i < costs.size(); ++i) sum += costs[i];
    return sum;
  }
  double best = 1e300;
  for (size_t end = begin + 1; end + static_cast<size_t>(stages) - 1 <= costs.size(); ++end) {
    sum += costs[end - 1];
    best = std::min(best, std::max(sum, least_by_search(costs, end, stages - 1)));
  }
  return best;
}

double largest_of_ranks(const std::vector<double>& costs, const std::vector<int>& ranks,
                        const std::vector<int64_t>& cut) {
  const std::vector<double> stages = stage_costs(costs, cut);
  std::vector<double> sums(ranks.size(), 0.0);
  for (size_t s = 0; s < stages.size(); ++s) sums[static_cast<size_t>(ranks[s])] += stages[s];
  return largest(sums);
}

TEST(CutStagesTest, IsTheBestOfAllCuts) {
  std::mt19937 random(1);
  std::uniform_int_distribution<int> cost(0, 20);  // small integers: many ties, and units that cost nothing
  for (int round = 0; round < 50; ++round) {
    std::vector<double> costs(9);
    for (double& c : costs) c = cost(random);
    for (int64_t stages = 1; stages <= 9; ++stages) {
      const std::vector<int64_t> cut = cut_stages(costs, stages);
      ASSERT_EQ(std::ssize(cut), stages + 1);
      EXPECT_EQ(cut.front(), 0);
      EXPECT_EQ(cut.back(), 9);
      EXPECT_TRUE(std::adjacent_find(cut.begin(), cut.end(), std::greater_equal<>()) ==
                  cut.end());  // no empty stage
      EXPECT_DOUBLE_EQ(largest(stage_costs(costs, cut)), least_by_search(costs, 0, stages));
    }
  }
}

TEST(CutStagesTest, EvenAmongEqualsAndSmallFirst) {
  EXPECT_THAT(cut_stages(std::vector<double>{1, 1, 1, 1, 1}, 2), ElementsAre(0, 2, 5));
  EXPECT_THAT(cut_stages(std::vector<double>{0.1, 0.1, 0.1, 0.1, 0.1}, 2), ElementsAre(0, 2, 5));
  // The classifier's stage is the largest whatever the others are; they are still even.
  EXPECT_THAT(cut_stages(std::vector<double>{0, 1, 1, 1, 1, 9}, 3), ElementsAre(0, 3, 5, 6));
  EXPECT_THAT(cut_stages(std::vector<double>{0, 0, 0, 0}, 4), ElementsAre(0, 1, 2, 3, 4));
}

TEST(CutStagesTest, CountsAClassifierAsItsBlocks) {
  // GPT-2 124M: the classifier's 50304 columns cost about as much as 5 blocks.
  const std::vector<double> costs = unit_costs({12, 768, 3072, 12, 12, 50304, 1024});
  ASSERT_EQ(costs.size(), 14U);
  const double block = 2.0 * 12 * 768 * 768 * 1024 + 4.0 * 768 * (1024.0 * 1025 / 2);
  EXPECT_DOUBLE_EQ(costs[1], block);
  EXPECT_DOUBLE_EQ(costs[12], block);
  EXPECT_DOUBLE_EQ(costs[13], 2.0 * 768 * 50304 * 1024);
  EXPECT_GT(costs[0], 0.0);
  EXPECT_LT(costs[0], 0.1 * block);
  EXPECT_NEAR(costs[13] / block, 4.9, 0.1);
  EXPECT_THAT(cut_stages(costs, 2), ElementsAre(0, 9, 14));  // 8 blocks | 4 blocks and the classifier
  EXPECT_THAT(cut_stages(costs, 4), ElementsAre(0, 5, 9, 13, 14));
}

/// The least cost of the costliest rank over all cuts.
double least_of_ranks(const std::vector<double>& costs, const std::vector<int>& ranks, std::vector<int64_t> cut = {0}) {
  const size_t stage = cut.size();
  const auto units = std::ssize(costs);
  double best = 1e300;
  if (stage == ranks.size()) {
    cut.push_back(units);
    return largest_of_ranks(costs, ranks, cut);
  }
  for (int64_t end = cut.back() + 1; end + std::ssize(ranks) - static_cast<int64_t>(stage) <= units; ++end) {
    std::vector<int64_t> longer = cut;
    longer.push_back(end);
    best = std::min(best, least_of_ranks(costs, ranks, longer));
  }
  return best;
}

TEST(CutStagesOfRanksTest, NoCutGivesTheCostliestRankLess) {
  const std::vector<std::vector<int>> layouts{{0, 1}, {0, 1, 1, 0}, {0, 1, 0, 1}, {0, 1, 2, 2, 1, 0}};
  for (const std::vector<int>& ranks : layouts)
    for (const int blocks : {5, 8, 13})
      for (const double classifier : {0.5, 1.8, 2.5, 5.0}) {
        std::vector<double> costs(static_cast<size_t>(blocks) + 2, 1.0);
        costs.front() = 0.01, costs.back() = classifier;
        EXPECT_NEAR(largest_of_ranks(costs, ranks, cut_stages_of_ranks(costs, ranks)), least_of_ranks(costs, ranks), 0.02)
            << blocks << " blocks, " << ranks.size() << " stages, a classifier of " << classifier;
      }
}

TEST(CutStagesOfRanksTest, KeepsStagesEvenWhereRanksAre) {
  const std::vector<int> in_v{0, 1, 1, 0};
  EXPECT_THAT(cut_stages_of_ranks(std::vector<double>(8, 1.0), in_v), ElementsAre(0, 2, 4, 6, 8));
  // GPT-2 1558M: 23 blocks and the classifier, which costs 2.5, beside 25. The costliest stages alone would make that 22 and 26.
  const std::vector<double> costs = unit_costs({48, 1600, 6400, 25, 25, 50304, 1024});
  EXPECT_THAT(cut_stages_of_ranks(costs, in_v), ElementsAre(0, 14, 26, 39, 50));
}

TEST(CutStagesTest, FewerHeadsOfKeysCostLess) {
  const double all = unit_costs({1, 64, 256, 8, 8, 100, 16})[1],
               quarter = unit_costs({1, 64, 256, 8, 2, 100, 16})[1];
  EXPECT_DOUBLE_EQ(all - quarter, 2.0 * 16 * (2.0 * 64 * 48));
}

TEST(CutStagesTest, RefusesMoreStagesThanUnits) {
  const std::vector<double> costs(6, 1.0);
  EXPECT_THAT(refusal([&] { cut_stages(costs, 7); }),
              HasSubstr("7 pipeline stages (pipeline * chunks) for a model of 6 units"));
  EXPECT_THAT(refusal([&] { cut_stages(costs, 7); }), HasSubstr("1 to 6 stages work"));
  EXPECT_THAT(refusal([&] { cut_stages(costs, 0); }), HasSubstr("1 to 6 stages work"));
}

TEST(CutStagesByLayersTest, FirstHasTheEmbeddingLastTheClassifier) {
  EXPECT_THAT(cut_stages_by_layers(std::vector<int64_t>{7, 8, 8, 7}, 4, 30), ElementsAre(0, 8, 16, 24, 32));
  EXPECT_THAT(cut_stages_by_layers(std::vector<int64_t>{12}, 1, 12), ElementsAre(0, 14));
  EXPECT_THAT(cut_stages_by_layers(std::vector<int64_t>{0, 2, 0}, 3, 2), ElementsAre(0, 1, 3, 4));
}

TEST(CutStagesByLayersTest, RefusesWithTheNumbers) {
  const auto refused = [](const std::vector<int64_t>& layers_of_stage, int64_t stages, int64_t layers) {
    return refusal([&] { cut_stages_by_layers(layers_of_stage, stages, layers); });
  };
  EXPECT_THAT(refused({7, 8, 8, 7}, 4, 32), HasSubstr("[7, 8, 8, 7] are 30 layers, but the model has 32"));
  EXPECT_THAT(refused({6, 6}, 4, 12), HasSubstr("2 numbers for 4 pipeline stages"));
  EXPECT_THAT(refused({6, 0, 6}, 3, 12), HasSubstr("stage 1 has 0 layers"));
  EXPECT_THAT(refused({13, -1}, 2, 12), HasSubstr("stage 1 has -1 layers"));
}

}  // namespace
}  // namespace trireme
