// Collectives of NCCL's that are part of a recording. Ranks are threads, each with a GPU.
#include <gmock/gmock.h>

#include <chrono>
#include <thread>

#include "comm/nccl/recorded_collectives.h"
#include "tests/cuda/nccl/recorded_ends.h"

namespace trireme {
namespace {

using comm::RecordedCollectives;
using ::testing::Each;

class RecordedCollectivesCuda : public ::testing::Test {
 protected:
  void SetUp() override { TRIREME_NEEDS_GPUS(2); }

  static void on_two_ranks(const std::function<void(Group&, GpuRank&)>& body) {
    LocalWorld(2, {.timeout_ms = 60'000}).run([&](Group& world) {
      ASSERT_EQ(world.size(), 2);
      GpuRank rank(world);
      body(world, rank);
    });
  }
  static void write(GpuRank& rank, const Tensor& t, float value) {
    const std::vector<float> values(static_cast<size_t>(t.numel()), value);
    rank.ctx.backend->copy(t.raw(), values.data(), t.bytes(), *rank.ctx.stream);
  }
};

/// `big` and `swapped` are twice what the others are.
struct Tensors {
  Tensors(GpuRank& rank, int64_t n)
      : sum(rank.filled(n, 0)),
        part(rank.filled(n, 0)),
        root(rank.filled(n, 0)),
        big(rank.filled(2 * n, 0)),
        swapped(rank.filled(2 * n, 0)) {}
  Tensor sum, part, root, big, swapped;
};
void call_all(GpuRank& rank, const Tensors& t) {
  Stream* const stream = rank.ctx.stream;
  Group& group = *rank.group;
  group.all_reduce(t.sum, ReduceOp::sum, "sum", stream).wait(*stream);
  group.all_gather(t.sum, t.big, "gather", stream).wait(*stream);
  group.reduce_scatter(t.big, t.part, ReduceOp::average, "scatter", stream).wait(*stream);
  group.all_to_all(t.big, t.swapped, "swap", stream).wait(*stream);
  const Work last = group.broadcast(t.root, 1, "root", stream);
  if (!stream->recorder()) last.wait(*stream);  // a recording waits for it, if nobody does
}

TEST_F(RecordedCollectivesCuda, AreOnePieceAndDoWhatTheyDidWhenTheyWereCalled) {
  on_two_ranks([](Group& world, GpuRank& rank) {
    const Tensors t(rank, 3000);
    call_all(rank, t);  // which connects
    const auto recording = record_in_one(world, rank, [&] { call_all(rank, t); });
    for (int replay = 1; replay <= 3; ++replay) {
      write(rank, t.sum, static_cast<float>(replay + world.rank()));
      write(rank, t.root, static_cast<float>(world.rank() * replay));
      recording->replay(*rank.ctx.stream);
      const auto sum = static_cast<float>(2 * replay + 1);
      for (const Tensor& each : {t.sum, t.part, t.big, t.swapped}) EXPECT_THAT(rank.read(each), Each(sum));
      EXPECT_THAT(rank.read(t.root), Each(static_cast<float>(replay)));
      rank.all_reduce(t.sum, "called between replays").wait(*rank.ctx.stream);
      EXPECT_THAT(rank.read(t.sum), Each(2 * sum));
    }
  });
}

TEST_F(RecordedCollectivesCuda, OfTwoGroupsAreOnePiece) {
  on_two_ranks([](Group& world, GpuRank& rank) {
    Stream* const stream = rank.ctx.stream;
    const auto other = make_device_group(world, rank.engine.backend(), "other");
    for (Group* group : {rank.group.get(), other.get()}) group->barrier("connects").wait();  // not while the other one waits for peers
    const Tensor a = rank.filled(200'000, 1), b = rank.filled(1000, 1);
    const auto step = [&] {
      const Work large = rank.all_reduce(a, "large");
      for (int i = 0; i < 3; ++i) other->all_reduce(b, ReduceOp::sum, "small", stream).wait(*stream);
      large.wait(*stream);
      rank.all_reduce(a, "again").wait(*stream);
    };
    step();
    const auto recording = record_in_one(world, rank, step);
    for (int i = 0; i < 2; ++i) recording->replay(*stream);
    EXPECT_THAT(rank.read(b), Each(512.0f));
    EXPECT_THAT(rank.read(a), Each(64.0f));
  });
}

TEST_F(RecordedCollectivesCuda, AreCalledWhereSomethingElseOfTheirGroupIsToBeCalledBetweenThem) {
  on_two_ranks([](Group& world, GpuRank& rank) {
    const Tensor t = rank.filled(1000, 1);
    rank.all_reduce(t, "connects").wait(*rank.ctx.stream);
    rank.group->barrier("connects").wait();
    int meetings = 0;
    const auto recording = rank.record(world, [&] {
      rank.all_reduce(t, "sum").wait(*rank.ctx.stream);
      rank.group->barrier("of no stream").wait();
      ++meetings;
      rank.all_reduce(t, "sum").wait(*rank.ctx.stream);
    });
    EXPECT_EQ(meetings, 1) << "not by the attempt without pieces";
    recording->replay(*rank.ctx.stream);
    EXPECT_THAT(rank.read(t), Each(8.0f));
  });
}

TEST_F(RecordedCollectivesCuda, ReplaysComeAfterWhatWasCalledBefore) {
  on_two_ranks([](Group& world, GpuRank& rank) {
    const Tensor t = rank.filled(50'000, 1), u = rank.filled(1000, 1);
    rank.group->all_reduce(t, ReduceOp::average, "connects", rank.ctx.stream).wait(*rank.ctx.stream);
    const auto recording = record_in_one(world, rank, [&] { rank.group->all_reduce(u, ReduceOp::sum, "recorded", rank.ctx.stream).wait(*rank.ctx.stream); });
    if (world.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    for (int i = 0; i < 100; ++i) static_cast<void>(rank.group->all_reduce(t, ReduceOp::average, "more than are issued at once", rank.ctx.stream));
    recording->replay(*rank.ctx.stream);
    EXPECT_THAT(rank.read(u), Each(2.0f));
    EXPECT_THAT(rank.read(t), Each(1.0f));
  });
}

TEST_F(RecordedCollectivesCuda, OneRankMayCallWhatTheOtherReplays) {
  on_two_ranks([](Group& world, GpuRank& rank) {
    const Tensors t(rank, 1000);
    call_all(rank, t);
    const auto recording = record_in_one(world, rank, [&] { call_all(rank, t); });
    write(rank, t.sum, 1);
    for (int i = 0; i < 4; ++i) {
      if (i % 2 == world.rank())
        recording->replay(*rank.ctx.stream);
      else
        call_all(rank, t);
    }
    EXPECT_THAT(rank.read(t.sum), Each(16.0f));
  });
}

TEST_F(RecordedCollectivesCuda, AreCalledWhereTheHostHasSomethingToDoBetweenThem) {
  on_two_ranks([](Group& world, GpuRank& rank) {
    Stream* const stream = rank.ctx.stream;
    const int peer = 1 - world.rank();
    const Tensor sum = rank.filled(1000, 1), received = rank.filled(1000, 0);
    int calls = 0, undone = 0;
    const auto step = [&] {
      ++calls;
      rank.all_reduce(sum, "sum").wait(*stream);
      const Work sending = rank.group->send(sum, peer, 0, "there", stream);
      rank.group->recv(received, peer, 0, "here", stream).wait(*stream);
      sending.wait(*stream);
      rank.all_reduce(sum, "sum").wait(*stream);
    };
    step();
    const auto recording = rank.record(world, step, [&] { ++undone; });
    EXPECT_EQ(undone, 1);
    EXPECT_EQ(calls, 3);
    recording->replay(*stream);
    EXPECT_THAT(rank.read(received), Each(8.0f));
    EXPECT_THAT(rank.read(sum), Each(16.0f));
  });
}

TEST_F(RecordedCollectivesCuda, OfARecordingThatFailsLeaveTheGroupAsItWas) {
  on_two_ranks([](Group& world, GpuRank& rank) {
    const Tensors t(rank, 1000);
    call_all(rank, t);
    Work left;
    EXPECT_THROW(rank.record(world, [&] {
      left = rank.all_reduce(t.sum, "that nobody waits for");
      throw ConfigError("no");
    }),
                 ConfigError);
    world.barrier("failed").wait();
    write(rank, t.sum, 1);
    call_all(rank, t);
    const auto recording = rank.record(world, [&] { call_all(rank, t); });
    left = {};
    recording->replay(*rank.ctx.stream);
    EXPECT_THAT(rank.read(t.sum), Each(4.0f));
  });
}

TEST_F(RecordedCollectivesCuda, AreCalledWhereTheyAreMoreThanEndSoonWhenTheyAreGivenUp) {
  on_two_ranks([](Group& world, GpuRank& rank) {
    const Tensor t = rank.filled(100, 1);
    rank.all_reduce(t, "connects").wait(*rank.ctx.stream);
    for (const auto& [count, in_one] : {std::pair{size_t{3}, true}, {RecordedCollectives::kMost + 1, false}}) {
      const auto recording = rank.record(world, [&, count = count] {
        for (size_t i = 0; i < count; ++i) rank.group->all_reduce(t, ReduceOp::average, "average", rank.ctx.stream).wait(*rank.ctx.stream);
      });
      EXPECT_EQ(rank.ctx.recorder->has_branches(), in_one);
      recording->replay(*rank.ctx.stream);
      EXPECT_THAT(rank.read(t), Each(2.0f));
    }
  });
}

TEST_F(RecordedCollectivesCuda, WhoStaysAwayFromAReplayIsNoticedInTimeAndToldWithWhatItStayedAwayFrom) {
  expect_absence_is_told(1 << 20, /*copies=*/false);
}

TEST_F(RecordedCollectivesCuda, AnExceptionInOneRankEndsTheOthersReplay) {
  expect_exception_ends_replays(1 << 20, /*copies=*/false, "rank 1 failed: the disk is full");
}

}  // namespace
}  // namespace trireme
