// Weights rounded at random on 1, 2 and 4 data ranks: the same bits, where sums of gradients are the same.
#include <gtest/gtest.h>

#include <cmath>

#include "comm/local/local_world.h"
#include "parallel/all_reduce_reducer.h"
#include "tests/optim/optim_world.h"

namespace trireme::testing {
namespace {

constexpr int kSamples = 4;  // of a step, over all ranks

/// Multiples of 2^-10 below 1: sums of four are exact in f32, in any order.
float sample_gradient(int step, int sample, int64_t element) {
  return std::round(1000.0f * std::sin(static_cast<float>(element % 9973) + 17.0f * static_cast<float>(step * kSamples + sample))) * 0x1p-10f;
}

std::vector<std::byte> train_rank(Group& group, size_t bucket_bytes, const char* kind) {
  World world({.dtype = DType::bf16});
  std::vector<Parameter*> all;
  for (Parameter& p : world.parameters) all.push_back(&p);
  world.buckets = plan_buckets(all, bucket_bytes);
  allocate_buckets(world.ctx, world.buckets, DType::bf16);
  init_parameters(world.ctx, all, 7);
  AllReduceReducer reducer(world.ctx, world.buckets, {.batch = &group});
  const auto optimizer = make_optimizer(config_of(kind), StochasticRounding{.seed = 11});
  optimizer->attach(world.ctx, reducer.shards());
  const int mine = kSamples / group.size();
  for (int step = 1; step <= 8; ++step) {
    reducer.begin_step();
    for (Parameter* p : all) {
      p->begin_accumulate();
      for (int64_t e = 0; e < p->shape.numel(); ++e) {
        float sum = 0.0f;
        for (int s = 0; s < mine; ++s) sum += sample_gradient(step, group.rank() * mine + s, e);
        p->grad.data<float>()[e] = sum;
      }
      reducer.grad_ready(*p);
    }
    reducer.finish();
    optimizer->step(world.ctx, reducer.shards(), make_control(world.ctx, {.multiplier = 0.1f, .lr = 1e-3f}));
  }
  std::vector<std::byte> bits;
  for (const Parameter* p : all) World::append(bits, p->data);
  return bits;
}

TEST(RoundingRanks, DataRanksAndBucketsChangeNoBit) {
  for (const char* kind : {"adamw", "sgd", "lion"}) {
    std::vector<std::byte> reference;
    for (const int ranks : {1, 2, 4})
      for (const size_t bucket_bytes : {size_t{1} << 12, size_t{1} << 24}) {
        std::vector<std::vector<std::byte>> found(static_cast<size_t>(ranks));
        LocalWorld(ranks).run([&](Group& world) {
          ASSERT_EQ(world.size(), ranks);
          const auto group = world.duplicate("gradients");
          found[static_cast<size_t>(world.rank())] = train_rank(*group, bucket_bytes, kind);
        });
        if (reference.empty()) reference = found[0];
        ASSERT_FALSE(reference.empty());
        for (const auto& bits : found) EXPECT_TRUE(bits == reference) << kind << ", " << ranks << " ranks, " << bucket_bytes;
      }
  }
}

}  // namespace
}  // namespace trireme::testing
