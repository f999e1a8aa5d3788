// How replays of recorded collectives end when a rank fails, whether NCCL or copy engines move what they exchange.
#pragma once

#include <gmock/gmock.h>

#include <atomic>
#include <stdexcept>

#include "core/recorder.h"
#include "tests/cuda/nccl/copying_rank.h"

namespace trireme {

/// Of what must be recorded in one.
inline std::unique_ptr<Recording> record_in_one(Group& world, GpuRank& rank, const std::function<void()>& body) {
  auto recording = rank.record(world, body);
  EXPECT_TRUE(rank.ctx.recorder->has_branches());
  return recording;
}

/// What a rank's groups are made with.
inline std::function<DeviceGroupOptions()> options_of(bool copies) {
  return [=] { return copies ? by_copies() : DeviceGroupOptions(); };
}

/// Rank 1 takes part in the first of three recorded sums of `numel` values, and in no more.
inline void expect_absence_is_told(int64_t numel, bool copies) {
  using ::testing::HasSubstr;
  const auto body = [=](Group& world, GpuRank& rank) {
    const Tensor t = rank.filled(numel, 1);
    rank.all_reduce(t, "connects").wait(*rank.ctx.stream);
    const auto recording = record_in_one(world, rank, [&] {
      for (const char* name : {"bucket 1", "bucket 2", "bucket 3"}) rank.all_reduce(t, name).wait(*rank.ctx.stream);
    });
    EXPECT_EQ(uses_copies(rank), copies);
    rank.ctx.stream->synchronize();
    if (world.rank() == 1) {
      rank.all_reduce(t, "bucket 1").wait(*rank.ctx.stream);
      return stay_away(world);
    }
    recording->replay(*rank.ctx.stream);
    rank.ctx.stream->synchronize();  // until what runs was aborted
    EXPECT_TRUE(world.failure());
    EXPECT_THROW(recording->replay(*rank.ctx.stream), CommError);
    EXPECT_THROW(rank.all_reduce(t, "after").wait(*rank.ctx.stream), CommError);
    world.barrier("after").wait();
  };
  const auto [text, elapsed] = failure_of<CommError>(1000, true, body, options_of(copies));
  EXPECT_THAT(text, ::testing::AllOf(HasSubstr("all_reduce 'bucket 2' in group 'gradients' was not done within 1 s"),
                                     HasSubstr("its ranks are alive")));
  EXPECT_GE(elapsed, Seconds(1));
  EXPECT_LT(elapsed, Seconds(20));
}

/// Rank 1 throws while rank 0 replays a sum of `numel` values; `why`: what rank 0 may say of the next replay.
inline void expect_exception_ends_replays(int64_t numel, bool copies, const std::string& why) {
  std::atomic<bool> is_replayed = false;
  const auto body = [&](Group& world, GpuRank& rank) {
    const Tensor t = rank.filled(numel, 1);
    rank.all_reduce(t, "connects").wait(*rank.ctx.stream);
    const auto recording = record_in_one(world, rank, [&] { rank.all_reduce(t, "bucket 3").wait(*rank.ctx.stream); });
    EXPECT_EQ(uses_copies(rank), copies);
    rank.ctx.stream->synchronize();
    if (world.rank() == 1) {
      is_replayed.wait(false);
      throw std::runtime_error("the disk is full");
    }
    recording->replay(*rank.ctx.stream);
    is_replayed = true;
    is_replayed.notify_all();
    rank.ctx.stream->synchronize();
    EXPECT_THAT(message_of<CommError>([&] { recording->replay(*rank.ctx.stream); }),
                ::testing::HasSubstr("rank 0: a step was not replayed: " + why));
  };
  const auto [text, elapsed] = failure_of<std::runtime_error>(60'000, true, body, options_of(copies));
  EXPECT_EQ(text, "the disk is full");
  EXPECT_LT(elapsed, Seconds(20));
}

}  // namespace trireme
