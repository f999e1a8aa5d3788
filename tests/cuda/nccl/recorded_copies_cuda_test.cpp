// Sums and gathers by copy engines that are part of a recording. Ranks are threads, each with a GPU.
#include <gmock/gmock.h>

#include <array>

#include "tests/cuda/nccl/recorded_ends.h"

namespace trireme {
namespace {

using ::testing::Each;

class RecordedCopiesCuda : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { TRIREME_NEEDS_NVLINK(GetParam()); }

  static void on_ranks(const std::function<void(Group&, GpuRank&, const DeviceGroupOptions&)>& body) {
    LocalWorld(GetParam(), {.timeout_ms = 60'000}).run([&](Group& world) {
      const DeviceGroupOptions options = by_copies();
      GpuRank rank(world, options);
      rank.group->barrier("connects").wait();
      EXPECT_TRUE(uses_copies(rank));
      body(world, rank, options);
    });
  }
};

/// Of a step: one place of a buffer, an odd and an even number of pieces, one that is left to NCCL between them, and one of which the
/// last rank has nothing in the last piece.
constexpr std::array<int64_t, 5> kSizes{300'000, 1000, 13'000'000, 6'000'000, 4'194'320};

struct Step {
  explicit Step(GpuRank& rank) {
    for (const int64_t n : kSizes) {
      sums.push_back(rank.filled(n, 1));
      parts.push_back(rank.filled(n, 0));
      all.push_back(rank.filled(n * rank.group->size(), 0));
    }
  }
  /// Afterwards all have the average of the sums of `sums`, which is one rank's.
  void run(GpuRank& rank) const {
    Stream* const stream = rank.ctx.stream;
    for (size_t i = 0; i < kSizes.size(); ++i) {
      rank.all_reduce(sums[i], "sum").wait(*stream);
      rank.group->all_gather(sums[i], all[i], "gather", stream).wait(*stream);
    }
    std::vector<Work> scattered;
    for (size_t i = 0; i < kSizes.size(); ++i)
      scattered.push_back(rank.group->reduce_scatter(all[i], parts[i], ReduceOp::average, "scatter", stream));
    for (const Work& work : scattered) work.wait(*stream);
  }
  /// Run once, so that all is connected: the values are the number of ranks then.
  std::unique_ptr<Recording> record(Group& world, GpuRank& rank) const {
    run(rank);
    return record_in_one(world, rank, [&] { run(rank); });
  }
  void expect(GpuRank& rank, float value) const {
    for (const std::vector<Tensor>* tensors : {&sums, &parts, &all})
      for (const Tensor& t : *tensors) {
        const std::vector<float> found = rank.read(t);
        ASSERT_EQ(std::ranges::count(found, value), t.numel()) << "of " << t.numel() << ", the first is " << found.front();
      }
  }
  std::vector<Tensor> sums, parts, all;
};

TEST_P(RecordedCopiesCuda, AreOnePieceAndDoWhatTheyDidWhenTheyWereCalled) {
  on_ranks([](Group& world, GpuRank& rank, const DeviceGroupOptions&) {
    const Step step(rank);
    const auto recording = step.record(world, rank);
    const auto size = static_cast<float>(world.size());
    float wanted = size;
    for (int i = 0; i < 3; ++i) {
      for (int replays = 0; replays < 2; ++replays, wanted *= size) recording->replay(*rank.ctx.stream);
      step.expect(rank, wanted);
      const Tensor& called = step.sums[static_cast<size_t>(i)];
      for (int calls = 0; calls < i; ++calls)  // of which the next replay must be behind, whatever lanes they use
        rank.group->all_reduce(called, ReduceOp::average, "called", rank.ctx.stream).wait(*rank.ctx.stream);
    }
  });
}

TEST_P(RecordedCopiesCuda, OneRankMayCallWhatTheOthersReplay) {
  on_ranks([](Group& world, GpuRank& rank, const DeviceGroupOptions&) {
    const Step step(rank);
    const auto recording = step.record(world, rank);
    const auto size = static_cast<float>(world.size());
    float wanted = size;
    for (int i = 0; i < 5; ++i, wanted *= size) {
      if (i % world.size() == world.rank())
        step.run(rank);
      else
        recording->replay(*rank.ctx.stream);
    }
    step.expect(rank, wanted);
  });
}

TEST_P(RecordedCopiesCuda, OfSeveralGroupsAreOnePieceAndBehindWhatTheyCalled) {
  on_ranks([](Group& world, GpuRank& rank, const DeviceGroupOptions& options) {
    Stream* const stream = rank.ctx.stream;
    const auto other = make_device_group(world, rank.engine.backend(), "other", options);
    other->barrier("connects").wait();
    const Tensor a = rank.filled(5'000'000, 1), b = rank.filled(1'000'000, 1);
    const auto step = [&] {
      const Work large = rank.group->all_reduce(a, ReduceOp::average, "large", stream);
      for (int i = 0; i < 3; ++i) other->all_reduce(b, ReduceOp::average, "small", stream).wait(*stream);
      large.wait(*stream);
      rank.all_reduce(a, "again").wait(*stream);
    };
    step();
    const auto recording = record_in_one(world, rank, step);
    const Tensor c = rank.filled(60'000'000, 1);
    world.barrier("prepared").wait();
    float wanted = static_cast<float>(world.size());
    for (int i = 0; i < 3; ++i) {
      std::vector<Work> called;
      for (int calls = 0; calls < 4; ++calls)  // more than is queued at once
        called.push_back((calls % 2 == 0 ? rank.group.get() : other.get())->all_reduce(c, ReduceOp::average, "called", stream));
      recording->replay(*stream);
      wanted *= static_cast<float>(world.size());
      for (const Work& work : called) work.wait(*stream);
    }
    EXPECT_THAT(rank.read(a), Each(wanted));
    for (const Tensor& t : {b, c}) {
      const std::vector<float> found = rank.read(t);
      EXPECT_EQ(std::ranges::count(found, 1.0F), t.numel());
    }
  });
}

TEST_P(RecordedCopiesCuda, AreInPiecesWhereTheHostHasSomethingToDoBetweenThem) {
  on_ranks([](Group& world, GpuRank& rank, const DeviceGroupOptions&) {
    const Tensor t = rank.filled(1 << 20, 1);
    rank.all_reduce(t, "sum").wait(*rank.ctx.stream);
    int undone = 0;
    const auto step = [&] {
      rank.all_reduce(t, "sum").wait(*rank.ctx.stream);
      rank.ctx.recorder->on_host([] {});
      rank.group->all_reduce(t, ReduceOp::average, "average", rank.ctx.stream).wait(*rank.ctx.stream);
    };
    const auto recording = rank.record(world, step, [&] { ++undone; });
    EXPECT_EQ(undone, 1);
    EXPECT_FALSE(rank.ctx.recorder->has_branches());
    recording->replay(*rank.ctx.stream);
    const auto size = static_cast<float>(world.size());
    EXPECT_THAT(rank.read(t), Each(size * size));
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, RecordedCopiesCuda, ::testing::Values(2, 3, 4));

class RecordedCopiesEndCuda : public ::testing::Test {
 protected:
  void SetUp() override { TRIREME_NEEDS_NVLINK(2); }
};

TEST_F(RecordedCopiesEndCuda, WhoStaysAwayFromAReplayIsNoticedInTimeAndToldWithWhatItStayedAwayFrom) {
  expect_absence_is_told(1 << 22, /*copies=*/true);
}

/// Why, its host hears a little later.
TEST_F(RecordedCopiesEndCuda, AnExceptionInOneRankEndsTheOthersReplay) {
  expect_exception_ends_replays(1 << 22, /*copies=*/true, "");
}

}  // namespace
}  // namespace trireme
