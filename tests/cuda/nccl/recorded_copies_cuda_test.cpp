// Sums and gathers by copy engines that are part of a recording. Ranks are threads, each with a GPU.
#include <gmock/gmock.h>

#include <array>
#include <atomic>

#include "core/recorder.h"
#include "tests/cuda/nccl/copying_rank.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

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
  static std::unique_ptr<Recording> record_in_one(Group& world, GpuRank& rank, const std::function<void()>& body) {
    auto recording = rank.record(world, body);
    EXPECT_TRUE(rank.ctx.recorder->has_branches());
    return recording;
  }
};

/// Of a step: one place of a buffer, an odd and an even number of pieces, and one that is left to NCCL between them.
constexpr std::array<int64_t, 4> kSizes{300'000, 1000, 13'000'000, 6'000'000};

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
    step.run(rank);
    const auto recording = record_in_one(world, rank, [&] { step.run(rank); });
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
    step.run(rank);
    const auto recording = record_in_one(world, rank, [&] { step.run(rank); });
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
  const auto body = [](Group& world, GpuRank& rank) {
    const Tensor t = rank.filled(1 << 22, 1);
    rank.all_reduce(t, "connects").wait(*rank.ctx.stream);
    const auto recording = rank.record(world, [&] {
      for (const char* name : {"bucket 1", "bucket 2", "bucket 3"}) rank.all_reduce(t, name).wait(*rank.ctx.stream);
    });
    EXPECT_TRUE(uses_copies(rank) && rank.ctx.recorder->has_branches());
    if (world.rank() == 1) {
      rank.all_reduce(t, "bucket 1").wait(*rank.ctx.stream);  // and no more
      return stay_away(world);
    }
    recording->replay(*rank.ctx.stream);
    rank.ctx.stream->synchronize();  // until the copies were given up
    EXPECT_TRUE(world.failure());
    EXPECT_THROW(recording->replay(*rank.ctx.stream), CommError);
    EXPECT_THROW(rank.all_reduce(t, "after").wait(*rank.ctx.stream), CommError);
    world.barrier("after").wait();
  };
  const auto [text, elapsed] = failure_of<CommError>(1000, true, body, by_copies);
  EXPECT_THAT(text, AllOf(HasSubstr("all_reduce 'bucket 2' in group 'gradients' was not done within 1 s"), HasSubstr("its ranks are alive")));
  EXPECT_GE(elapsed, Seconds(1));
  EXPECT_LT(elapsed, Seconds(20));
}

TEST_F(RecordedCopiesEndCuda, AnExceptionInOneRankEndsTheOthersReplay) {
  std::atomic<bool> is_replayed = false;
  const auto body = [&](Group& world, GpuRank& rank) {
    const Tensor t = rank.filled(1 << 22, 1);
    rank.all_reduce(t, "connects").wait(*rank.ctx.stream);
    const auto recording = rank.record(world, [&] { rank.all_reduce(t, "bucket 3").wait(*rank.ctx.stream); });
    if (world.rank() == 1) {
      is_replayed.wait(false);
      throw std::runtime_error("the disk is full");
    }
    recording->replay(*rank.ctx.stream);
    is_replayed = true;
    is_replayed.notify_all();
    rank.ctx.stream->synchronize();
    // Why, the host hears a little later.
    EXPECT_THAT(message_of<CommError>([&] { recording->replay(*rank.ctx.stream); }), HasSubstr("rank 0: a step was not replayed: "));
  };
  const auto [text, elapsed] = failure_of<std::runtime_error>(60'000, true, body, by_copies);
  EXPECT_EQ(text, "the disk is full");
  EXPECT_LT(elapsed, Seconds(20));
}

}  // namespace
}  // namespace trireme
