// Groups whose large sums and gathers go by copy engines. Ranks are threads.
#include <gmock/gmock.h>

#include <chrono>

#include "tests/cuda/nccl/copying_rank.h"

namespace trireme {
namespace {

using std::chrono::steady_clock;
using ::testing::AllOf;
using ::testing::HasSubstr;

class CopyEngines : public ::testing::Test {
 protected:
  void SetUp() override { TRIREME_NEEDS_NVLINK(2); }
};

TEST_F(CopyEngines, GiveTheSameSums) {
  LocalWorld(2, {.timeout_ms = 60'000}).run([](Group& world) {
    GpuRank with(world, by_copies()), without(world);
    for (const int64_t n : {100, 1 << 20, 40'000'001}) {
      const float each = 0.1F * static_cast<float>(1 + world.rank());
      const Tensor a = with.filled(n, each), b = without.filled(n, each);
      for (int i = 0; i < 3; ++i) {
        with.all_reduce(a, "a").wait(*with.ctx.stream);
        without.all_reduce(b, "b").wait(*without.ctx.stream);
      }
      EXPECT_EQ(with.read(a), without.read(b)) << n;
    }
    EXPECT_TRUE(uses_copies(with));
    EXPECT_FALSE(uses_copies(without));
  });
}

TEST_F(CopyEngines, GroupsTakeTurns) {
  LocalWorld(2, {.timeout_ms = 60'000}).run([](Group& world) {
    const DeviceGroupOptions options = by_copies();
    GpuRank rank(world, options);
    const auto other = make_device_group(world, rank.engine.backend(), "other", options);
    const Tensor a = rank.filled(100 << 20, 1), b = rank.filled(2 << 20, 1);
    // As a run does: to connect takes page-locked memory, for which CUDA may wait for all GPUs of a process.
    for (Group* group : {rank.group.get(), other.get()}) group->barrier("connects").wait();
    float wanted = 1;
    for (int i = 0; i < 5; ++i, wanted *= 2) {
      const Work first = rank.all_reduce(a, "a");  // twice at once is more than there is room for
      other->all_reduce(b, ReduceOp::sum, "b", rank.ctx.stream).wait(*rank.ctx.stream);
      first.wait(*rank.ctx.stream);
    }
    for (const Tensor& t : {a, b}) {
      const std::vector<float> found = rank.read(t);
      EXPECT_EQ(std::ranges::count(found, wanted), t.numel());
    }
  });
}

TEST_F(CopyEngines, AreCalledBetweenThePiecesOfARecording) {
  LocalWorld(2, {.timeout_ms = 60'000}).run([](Group& world) {
    GpuRank rank(world, by_copies(/*captured=*/false));
    const Tensor small = rank.filled(1000, 1), large = rank.filled(1 << 20, 1);
    const auto step = [&] {
      rank.all_reduce(small, "by NCCL").wait(*rank.ctx.stream);
      rank.all_reduce(large, "by copies").wait(*rank.ctx.stream);
    };
    step();
    EXPECT_TRUE(uses_copies(rank));
    int undone = 0;
    const auto recording = rank.record(world, step, [&] { ++undone; });
    EXPECT_EQ(undone, 1) << "of the attempt with the small one in it";
    EXPECT_FALSE(rank.ctx.recorder->has_branches());
    recording->replay(*rank.ctx.stream);
    for (const Tensor& t : {small, large}) EXPECT_THAT(rank.read(t), ::testing::Each(4.0f));
  });
}

/// Rank 0 calls as many sums of `t` as `count`, rank 1 none.
void expect_abort(int64_t numel, int count) {
  const auto body = [&](Group& world, GpuRank& rank) {
    EXPECT_TRUE(uses_copies(rank));
    if (world.rank() == 1) return stay_away(world);
    const Tensor t = rank.filled(numel, 1);
    std::vector<Work> works;
    for (int i = 0; i < count; ++i) works.push_back(rank.all_reduce(t, fmt::format("bucket {}", i)));
    EXPECT_THROW(
        {
          works.back().wait(*rank.ctx.stream);  // what is not issued throws here
          rank.ctx.stream->synchronize();       // until the copies were given up
          rank.all_reduce(t, "after").wait(*rank.ctx.stream);
        },
        CommError);
    EXPECT_TRUE(world.failure());
    works.front().wait();
  };
  const auto [text, elapsed] = failure_of<CommError>(1000, true, body, [] { return by_copies(); });
  EXPECT_THAT(text, AllOf(HasSubstr("rank 0: all_reduce 'bucket 0' in group 'gradients' was not done within 1 s"),
                          HasSubstr("its ranks are alive")));
  EXPECT_GE(elapsed, Seconds(1));
  EXPECT_LT(elapsed, Seconds(60));
}

TEST_F(CopyEngines, ASumThatARankStaysAwayFromIsGivenUp) { expect_abort(1 << 20, 1); }

// 12 GiB of sums are more than a GPU's queues hold: the host must not be stuck in them.
TEST_F(CopyEngines, MoreThanTheDeviceTakesIsGivenUpInTimeToo) { expect_abort(64 << 20, 48); }

}  // namespace
}  // namespace trireme
