// The all-reduce reducer: sums, order, overlap, and parameters without a gradient.
#include <gmock/gmock.h>

#include "comm/host_tensor.h"
#include "comm/local/local_world.h"
#include "comm/solo_group.h"
#include "core/nn/module.h"
#include "parallel/all_reduce_reducer.h"

namespace trireme {
namespace {

using ::testing::Each;

struct Weights : Module {
  Parameter& a = add_parameter("a", {40}, Init::ones());
  Parameter& b = add_parameter("b", {3}, Init::ones());
  Parameter& c = add_parameter("c", {50}, Init::ones());
};

class ReducerTest : public ::testing::TestWithParam<int> {
 protected:
  struct Rank {
    explicit Rank(Group& world, bool overlap = true, DType reduce_type = DType::f32)
        : group(world.duplicate("gradients")), reducer(ctx, buckets, {.batch = group.get()}, overlap, reduce_type) {}
    void write(Parameter& p, float value) {
      const float before = p.begin_accumulate() ? p.grad.data<float>()[0] : 0.0f;
      for (float& g : p.grad.span<float>()) g = before + value;
    }
    Engine engine{make_cpu_backend(1)};
    Context ctx = engine.context();
    Weights weights;
    std::vector<Bucket> buckets = [&] {  // c; a and b
      auto plan = plan_buckets(weights.parameters(), 64 * sizeof(float));
      allocate_buckets(ctx, plan);
      return plan;
    }();
    std::unique_ptr<Group> group;
    AllReduceReducer reducer;
  };
};

TEST_P(ReducerTest, SumsOverRanksStepAfterStep) {
  const int n = GetParam();
  LocalWorld(n).run([n](Group& world) {
    ASSERT_EQ(world.size(), n);
    Rank rank(world);
    ASSERT_EQ(rank.buckets.size(), 2u);
    for (int step = 1; step <= 3; ++step) {
      rank.reducer.begin_step();
      // Two micro-batches, the second one with hooks; ranks become ready in different orders.
      std::vector<Parameter*> order = rank.weights.parameters();
      for (Parameter* p : order) rank.write(*p, 1.0f);
      if (world.rank() % 2) std::reverse(order.begin(), order.end());
      for (Parameter* p : order) {
        rank.write(*p, static_cast<float>(step * (world.rank() + 1)));
        rank.reducer.grad_ready(*p);
      }
      rank.reducer.finish();
      const float sum = static_cast<float>(n + step * n * (n + 1) / 2);
      for (Parameter* p : order) EXPECT_THAT(p->grad.span<float>(), Each(sum)) << p->name;
    }
  });
}
INSTANTIATE_TEST_SUITE_P(Ranks, ReducerTest, ::testing::Values(2, 3, 4));

// In a norm over all ranks each element counts once.
TEST_P(ReducerTest, RanksCountDifferentPartsOfWhatAllHold) {
  LocalWorld(GetParam()).run([](Group& world) {
    Rank rank(world);
    const auto counted = rank.reducer.counted();
    ASSERT_EQ(counted.size(), rank.buckets.size());
    for (size_t i = 0; i < counted.size(); ++i) {
      const int64_t begin = counted[i].grad.data<float>() - rank.buckets[i].grad.data<float>();
      std::array<int64_t, 2> mine{begin, begin + counted[i].grad.numel()};
      std::vector<int64_t> all(2 * static_cast<size_t>(world.size()));
      world.all_gather(wrap_host(std::span<int64_t>(mine)), wrap_host(std::span(all)), "parts").wait();
      EXPECT_EQ(all.front(), 0);
      for (size_t r = 1; r < all.size() / 2; ++r) EXPECT_EQ(all[2 * r], all[2 * r - 1]);
      EXPECT_EQ(all.back(), rank.buckets[i].numel);
    }
  });
}

TEST_F(ReducerTest, BucketsLeaveInPlannedOrderAsSoonAsTheyMay) {
  LocalWorld(2).run([](Group& world) {
    ASSERT_EQ(world.size(), 2);
    Rank rank(world);
    rank.reducer.begin_step();
    const auto ready = [&](Parameter& p) {
      rank.write(p, 1.0f);
      rank.reducer.grad_ready(p);
      return rank.reducer.num_sent();
    };
    EXPECT_EQ(ready(rank.weights.a), 0u);
    EXPECT_EQ(ready(rank.weights.b), 0u);  // bucket 1 is whole, but bucket 0 goes first
    EXPECT_EQ(ready(rank.weights.c), 2u);
    rank.reducer.finish();
    rank.reducer.begin_step();
    EXPECT_EQ(ready(rank.weights.c), 1u);  // while a and b are still being computed
    EXPECT_EQ(ready(rank.weights.b), 1u);
    rank.reducer.finish();
    EXPECT_EQ(rank.reducer.num_sent(), 2u);
    EXPECT_THAT(rank.weights.a.grad.span<float>(), Each(0.0f));  // never written
  });
}

TEST_F(ReducerTest, WithoutOverlapAllIsSentAtTheEnd) {
  LocalWorld(2).run([](Group& world) {
    ASSERT_EQ(world.size(), 2);
    Rank rank(world, /*overlap=*/false);
    rank.reducer.begin_step();
    for (Parameter* p : rank.weights.parameters()) {
      rank.write(*p, 2.0f);
      rank.reducer.grad_ready(*p);
    }
    EXPECT_EQ(rank.reducer.num_sent(), 0u);
    rank.reducer.finish();
    EXPECT_THAT(rank.weights.b.grad.span<float>(), Each(4.0f));
  });
}

// 257 is 256 in bf16, and twice that is 512; f16 has it exactly.
TEST_F(ReducerTest, GradientsMayTravelInALowerPrecision) {
  for (const auto& [dtype, wanted] : {std::pair{DType::f32, 514.0f}, {DType::bf16, 512.0f}, {DType::f16, 514.0f}}) {
    LocalWorld(2).run([dtype = dtype, wanted = wanted](Group& world) {
      ASSERT_EQ(world.size(), 2);
      Rank rank(world, /*overlap=*/true, dtype);
      for (int step = 1; step <= 2; ++step) {
        rank.reducer.begin_step();
        for (Parameter* p : rank.weights.parameters()) {
          rank.write(*p, p == &rank.weights.c ? static_cast<float>(step) : 257.0f);
          rank.reducer.grad_ready(*p);
        }
        rank.reducer.finish();
        EXPECT_THAT(rank.weights.a.grad.span<float>(), Each(wanted)) << name_of(dtype);
        EXPECT_THAT(rank.weights.c.grad.span<float>(), Each(static_cast<float>(2 * step))) << name_of(dtype);
      }
    });
  }
}

TEST_F(ReducerTest, WrongUseIsNoticed) {
  LocalWorld(2).run([](Group& world) {
    ASSERT_EQ(world.size(), 2);
    Rank rank(world);
    Weights others;
    EXPECT_THROW(rank.reducer.grad_ready(others.a), InternalError) << "a parameter of another model";
    rank.reducer.begin_step();
    rank.write(rank.weights.c, 1.0f);
    rank.reducer.grad_ready(rank.weights.c);
    EXPECT_THROW(rank.reducer.grad_ready(rank.weights.c), InternalError) << "hooks on two micro-batches";
    EXPECT_THROW(rank.reducer.begin_step(), InternalError) << "bucket 0 is under way";
    rank.reducer.finish();
  });
}

// What the optimizer gets is the same with one rank as with many.
TEST_F(ReducerTest, OneRankNeedsNoMessages) {
  SoloGroup world;
  Rank rank(world);
  rank.reducer.begin_step();
  rank.write(rank.weights.a, 3.0f);
  rank.reducer.grad_ready(rank.weights.a);
  rank.reducer.finish();
  EXPECT_THAT(rank.weights.a.grad.span<float>(), Each(3.0f));
  EXPECT_THAT(rank.weights.c.grad.span<float>(), Each(0.0f));  // never written
  ASSERT_EQ(rank.reducer.shards().size(), rank.buckets.size());
  for (size_t i = 0; i < rank.buckets.size(); ++i)
    EXPECT_EQ(rank.reducer.shards()[i].grad.numel(), rank.buckets[i].numel);
}

}  // namespace
}  // namespace trireme
