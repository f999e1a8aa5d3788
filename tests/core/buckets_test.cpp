// Buckets where ranks share parameters: which parameters lie together, in which order buckets complete, and
// what a rank counts in sums over all parameters.
#include <gmock/gmock.h>

#include "core/nn/buckets.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;

Parameter parameter(std::string name, Shape shape, GradientSum sum = GradientSum::batch) {
  Parameter p;
  p.name = std::move(name);
  p.shape = shape;
  p.gradient_sum = sum;
  return p;
}

std::vector<std::string> names_of(const Bucket& bucket) {
  std::vector<std::string> names;
  for (const BucketEntry& entry : bucket.entries) names.push_back(entry.parameter->name);
  return names;
}

class BucketsTest : public ::testing::Test {
 protected:
  std::vector<Bucket> plan(size_t bucket_bytes) {
    std::vector<Parameter*> pointers;
    for (Parameter& p : parameters_) pointers.push_back(&p);
    return plan_buckets(pointers, bucket_bytes);
  }
  /// Where in its shard each part that is counted begins and ends.
  std::vector<std::pair<int64_t, int64_t>> counted(const Shard& shard) {
    std::vector<std::pair<int64_t, int64_t>> ranges;
    for (const Tensor& t : primary_gradients(shard)) {
      const int64_t begin = t.data<float>() - shard.grad.data<float>();
      ranges.emplace_back(begin, begin + t.numel());
    }
    return ranges;
  }

  Engine engine_{make_cpu_backend(1)};
  Context ctx_ = engine_.context();
  std::vector<Parameter> parameters_;
};

using Range = std::pair<int64_t, int64_t>;

TEST_F(BucketsTest, EachSumHasBucketsOfItsOwnInTheOrderInWhichBackwardCompletesThem) {
  const auto norm = GradientSum::batch_and_tensor, table = GradientSum::batch_and_stages;
  parameters_ = {parameter("table", {32}, table), parameter("norm1", {16}, norm), parameter("w1", {48}),
                 parameter("norm2", {16}, norm),  parameter("w2", {48}),          parameter("w3", {48})};
  const std::vector<Bucket> buckets = plan(96 * sizeof(float));
  ASSERT_EQ(buckets.size(), 4u);
  // Backward goes from w3 down: {w3, w2} is whole first, then w1, then norm1, the last of the norms, then the
  // table.
  EXPECT_THAT(names_of(buckets[0]), ElementsAre("w3", "w2"));
  EXPECT_THAT(names_of(buckets[1]), ElementsAre("w1"));
  EXPECT_THAT(names_of(buckets[2]), ElementsAre("norm2", "norm1"));
  EXPECT_THAT(names_of(buckets[3]), ElementsAre("table"));
  EXPECT_EQ(buckets[1].gradient_sum, GradientSum::batch);
  EXPECT_EQ(buckets[2].gradient_sum, norm);
  EXPECT_EQ(buckets[3].gradient_sum, table);
}

TEST_F(BucketsTest, WhatLiesBetweenLargeParametersGoesWithTheNextOfThem) {
  parameters_ = {parameter("first", {16}), parameter("w1", {100}), parameter("b1", {16}),
                 parameter("w2", {100}),   parameter("b2", {16}),  parameter("b3", {16})};
  const std::vector<Bucket> buckets = plan(64 * sizeof(float));
  ASSERT_EQ(buckets.size(), 3u);
  EXPECT_THAT(names_of(buckets[0]), ElementsAre("b3", "b2", "w2"));
  EXPECT_THAT(names_of(buckets[1]), ElementsAre("b1", "w1"));
  EXPECT_THAT(names_of(buckets[2]), ElementsAre("first"));
}

// The last stage has it first, the first one last: in another order one would wait for the other's.
TEST_F(BucketsTest, WhatStagesShareComesLastOnEveryStage) {
  parameters_ = {parameter("w1", {48}), parameter("table", {32}, GradientSum::batch_and_stages)};
  const std::vector<Bucket> buckets = plan(1024);
  ASSERT_EQ(buckets.size(), 2u);
  EXPECT_THAT(names_of(buckets[0]), ElementsAre("w1"));
  EXPECT_THAT(names_of(buckets[1]), ElementsAre("table"));
}

TEST_F(BucketsTest, ABucketThatIsBegunFirstMayCompleteLast) {
  const auto norm = GradientSum::batch_and_tensor;
  parameters_ = {parameter("norm1", {16}, norm), parameter("w1", {48}), parameter("norm2", {16}, norm)};
  const std::vector<Bucket> buckets = plan(1024);
  ASSERT_EQ(buckets.size(), 2u);
  EXPECT_THAT(names_of(buckets[0]), ElementsAre("w1"));
  EXPECT_THAT(names_of(buckets[1]), ElementsAre("norm2", "norm1"));
}

TEST_F(BucketsTest, AllGradientsCountWhereNothingIsShared) {
  parameters_ = {parameter("a", {20}), parameter("b", {7})};
  parameters_[0].placement = Placement::split(0, 40, 20, 40);
  auto buckets = plan(1024);
  allocate_buckets(ctx_, buckets);
  EXPECT_THAT(counted(make_shard(buckets[0], 0, buckets[0].numel)), ElementsAre(Range(0, buckets[0].numel)));
}

TEST_F(BucketsTest, WhatAnotherRankCountsIsLeftOut) {
  // Laid out as d [0, 16), c [16, 46), b [48, 80), a [80, 100).
  parameters_ = {parameter("a", {20}), parameter("b", {8, 4}), parameter("c", {6, 5}), parameter("d", {16})};
  parameters_[3].placement.primary = false;  // whole here, counted elsewhere
  parameters_[2].placement = {
      1, 20, {{.begin = 5, .end = 10, .primary = false}}};  // columns, counted elsewhere
  parameters_[1].placement = {
      0, 24, {{.begin = 0, .end = 4}, {.begin = 8, .end = 10, .primary = false}, {.begin = 16, .end = 18}}};
  auto buckets = plan(4096);
  allocate_buckets(ctx_, buckets);
  ASSERT_EQ(buckets.size(), 1u);
  ASSERT_EQ(buckets[0].entries[2].begin, 48);
  // d and c are neighbours: nothing lies between them to count. Of b, rows 4 and 5 are left out: 4 elements a
  // row.
  EXPECT_THAT(counted(make_shard(buckets[0], 0, buckets[0].numel)),
              ElementsAre(Range(46, 64), Range(72, 112)));
  // The same of a shard that begins and ends within parameters.
  EXPECT_THAT(counted(make_shard(buckets[0], 20, 66)), ElementsAre(Range(26, 44)));
  EXPECT_THAT(counted(make_shard(buckets[0], 70, 75)), ElementsAre(Range(2, 5)));
  EXPECT_THAT(counted(make_shard(buckets[0], 2, 40)), ElementsAre());
}

}  // namespace
}  // namespace trireme
