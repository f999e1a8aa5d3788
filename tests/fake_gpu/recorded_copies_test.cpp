// Recorded copies among ranks of which one is slow: what comes before a replay, within it and after it keeps its order.
#include <gmock/gmock.h>

#include <algorithm>

#include "core/backend/cuda/cuda_backend.h"
#include "core/ops/elementwise.h"
#include "core/recorder.h"
#include "tests/cuda/nccl/recorded_ends.h"
#include "tests/fake_gpu/fake_gpu.h"

namespace trireme {
namespace {

using std::chrono::milliseconds;

class RecordedCopiesInOrder : public ::testing::Test {
 public:
  static constexpr int64_t kValues = 400'000;  // one piece
  static constexpr int kSlow = 1;              // rank

  struct Rank : GpuRank {
    Rank(Group& group, const DeviceGroupOptions& groups)
        : GpuRank(group, groups), world(group), options(groups), other_stream(ctx.backend->make_stream()) {
      this->group->barrier("connects").wait();
    }
    Tensor empty() { return filled(2 * kValues, 0); }
    Work gather(const Tensor& own, const Tensor& all, Stream* stream) { return group->all_gather(own, all, "gather", stream); }
    void expect(const Tensor& all, float first, float second) {
      const std::vector<float> found = read(all);
      EXPECT_TRUE(std::ranges::all_of(found.begin(), found.begin() + kValues, [=](float x) { return x == first; }));
      EXPECT_TRUE(std::ranges::all_of(found.begin() + kValues, found.end(), [=](float x) { return x == second; }));
    }
    Group& world;
    DeviceGroupOptions options;
    std::unique_ptr<Stream> other_stream;
  };

 protected:
  void TearDown() override { fake::slow_copies(kSlow, milliseconds(0)); }
  static void on_two_ranks(const std::function<void(Rank&)>& body) {
    LocalWorld(2, {.timeout_ms = 20'000}).run([&](Group& world) {
      Rank rank(world, by_copies());
      body(rank);
    });
  }
  static void sleep_on(Stream& stream, milliseconds time) {
    fake::queue(cuda::raw_stream(stream), [=] { std::this_thread::sleep_for(time); });
  }
};

TEST_F(RecordedCopiesInOrder, AReplayBeginsWhenAllAreDoneWithTheOneBefore) {
  on_two_ranks([](Rank& rank) {
    Stream* const stream = rank.ctx.stream;
    const Tensor own = rank.filled(kValues, static_cast<float>(1 + rank.world.rank())), all = rank.empty();
    Tensor doubled = own;
    std::vector<Tensor> results;
    for (int i = 0; i < 4; ++i) results.push_back(rank.empty());
    const auto step = [&] {
      rank.gather(own, all, stream).wait(*stream);
      rank.ctx.kernel<ScaleKernel>()(rank.ctx, 2.0F, own, doubled);
    };
    step();
    const auto recording = rank.record(rank.world, step);
    EXPECT_TRUE(rank.ctx.recorder->has_branches());
    fake::slow_copies(kSlow, milliseconds(20));
    for (const Tensor& result : results) {
      recording->replay(*stream);
      rank.ctx.backend->copy(result.raw(), all.raw(), all.bytes(), *stream);
    }
    float factor = 2;
    for (const Tensor& result : results) {
      rank.expect(result, factor, 2 * factor);
      factor *= 2;
    }
  });
}

/// A gather that is called and one that is recorded, each on a stream of its own.
struct TwoGathers {
  explicit TwoGathers(RecordedCopiesInOrder::Rank& owner)
      : rank(owner),
        called(filled(1)),
        recorded(filled(3)),
        all_called(rank.empty()),
        all_recorded(rank.empty()),
        recording((gather().wait(*rank.ctx.stream), rank.record(rank.world, [&] { gather().wait(*rank.ctx.stream); }))) {}
  Tensor filled(float first) { return rank.filled(RecordedCopiesInOrder::kValues, first + static_cast<float>(rank.world.rank())); }
  Work gather() { return rank.gather(recorded, all_recorded, rank.ctx.stream); }
  void replay() { recording->replay(*rank.ctx.stream); }
  Work call() { return rank.gather(called, all_called, rank.other_stream.get()); }
  void expect(const Work& work) {
    work.wait(*rank.ctx.stream);
    rank.expect(all_called, 1, 2);
    rank.expect(all_recorded, 3, 4);
  }
  RecordedCopiesInOrder::Rank& rank;
  const Tensor called, recorded, all_called, all_recorded;
  const std::unique_ptr<Recording> recording;
};

TEST_F(RecordedCopiesInOrder, AReplayBeginsWhenAllAreDoneWithWhatWasCalledBefore) {
  on_two_ranks([](Rank& rank) {
    TwoGathers gathers(rank);
    fake::slow_copies(kSlow, milliseconds(50));
    const Work work = gathers.call();
    gathers.replay();
    gathers.expect(work);
  });
}

TEST_F(RecordedCopiesInOrder, WhatIsCalledAfterAReplayBeginsBehindIt) {
  on_two_ranks([](Rank& rank) {
    TwoGathers gathers(rank);
    if (rank.world.rank() == kSlow) sleep_on(*rank.ctx.stream, milliseconds(200));
    gathers.replay();
    gathers.expect(gathers.call());
  });
}

/// Its copies are queued when the device has room for them, one rank's sooner than the other's; a replay must not come between.
TEST_F(RecordedCopiesInOrder, AReplayIsQueuedBehindWhatAnotherGroupCalledBefore) {
  on_two_ranks([](Rank& rank) {
    Stream* const stream = rank.ctx.stream;
    const auto other = make_device_group(rank.world, rank.engine.backend(), "other", rank.options);
    other->barrier("connects").wait();
    const Tensor t = rank.filled(2'000'000, 1), large = rank.filled(60'000'000, 1);
    rank.all_reduce(t, "sum").wait(*stream);
    const auto recording = rank.record(rank.world, [&] { rank.all_reduce(t, "sum").wait(*stream); });
    std::vector<Work> called;
    for (int i = 0; i < 6; ++i) called.push_back(other->all_reduce(large, ReduceOp::average, "large", rank.other_stream.get()));
    if (rank.world.rank() == kSlow) std::this_thread::sleep_for(milliseconds(100));
    recording->replay(*stream);
    for (const Work& work : called) work.wait(*stream);
    EXPECT_EQ(rank.read(t).front(), 4);
    EXPECT_EQ(rank.read(large).front(), 1);
  });
}

/// The host that replays is held up by a stream that takes no more; that must not keep anybody from noticing that a peer is away.
TEST(RecordedCopiesEnd, IsNoticedWhileTheStreamIsFull) {
  const auto body = [](Group& world, GpuRank& rank) {
    const Tensor t = rank.filled(1 << 20, 1);
    rank.all_reduce(t, "connects").wait(*rank.ctx.stream);
    const auto recording = record_in_one(world, rank, [&] { rank.all_reduce(t, "recorded").wait(*rank.ctx.stream); });
    if (world.rank() == 1) return stay_away(world);
    Stream& stream = *rank.ctx.stream;
    rank.all_reduce(t, "called").wait(stream);
    // The wait for that has begun; a few more commands and the next one blocks, within what a replay queues itself.
    for (size_t i = 0; i + 3 < fake::kMaxQueued; ++i) fake::queue(cuda::raw_stream(stream), [] {});
    EXPECT_THROW(
        {
          recording->replay(stream);
          rank.all_reduce(t, "after").wait(stream);
        },
        CommError);
    stream.synchronize();
    world.barrier("after").wait();
  };
  const auto [text, elapsed] = failure_of<CommError>(1000, true, body, options_of(/*copies=*/true));
  EXPECT_THAT(text, ::testing::HasSubstr("all_reduce 'called' in group 'gradients' was not done within 1 s"));
  EXPECT_LT(elapsed, Seconds(20));
}

/// So many pieces that words are used twice, and a rank whose device goes on with them after all was given up.
TEST(RecordedCopiesEnd, IsThatOfALongReplayToo) {
  constexpr int kSums = 1500;
  std::atomic<bool> is_replayed = false;
  const auto body = [&](Group& world, GpuRank& rank) {
    const Tensor t = rank.filled(1 << 18, 1);
    rank.all_reduce(t, "connects").wait(*rank.ctx.stream);
    const auto recording = record_in_one(world, rank, [&] {
      for (int i = 0; i < kSums; ++i) rank.group->all_reduce(t, ReduceOp::average, "sum", rank.ctx.stream).wait(*rank.ctx.stream);
    });
    recording->replay(*rank.ctx.stream);
    if (world.rank() == 0) {
      recording->replay(*rank.ctx.stream);
      is_replayed = true;
      is_replayed.notify_all();
    } else {
      is_replayed.wait(false);
      rank.group->fail("the disk is full");
    }
    rank.ctx.stream->synchronize();
    world.barrier("after").wait();
  };
  const auto [text, elapsed] = failure_of<CommError>(60'000, true, body, options_of(/*copies=*/true));
  EXPECT_THAT(text, ::testing::HasSubstr("the disk is full"));
  EXPECT_LT(elapsed, Seconds(30));
}

}  // namespace
}  // namespace trireme
