// Sums and gathers by copy engines, among ranks that are threads.
#include "comm/nccl/peer_copies.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>

#include "comm/local/local_world.h"
#include "core/context.h"
#include "core/ops/elementwise.h"
#include "tests/cuda/nccl/nvlink.h"

namespace trireme::comm {
namespace {

using std::chrono::steady_clock;

float value_of(int rank, int64_t i) {
  return static_cast<float>((i * 7 + rank * 13) % 31 - 15);
}

struct Rank {
  explicit Rank(Group& group)
      : world(group),
        engine(make_cuda_backend({.index = world.rank() % num_cuda_devices()})),
        ctx(engine.context()),
        copies(world, engine.backend(), "copies"),
        begin(engine.backend().make_event()),
        end(engine.backend().make_event()) {
    while (!copies.is_decided()) std::this_thread::yield();
  }

  Tensor filled(int64_t n, DType dtype) {
    std::vector<float> values(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) values[static_cast<size_t>(i)] = value_of(world.rank(), i);
    const Tensor t = ctx.from_host<float>(values, {n});
    return dtype == DType::f32 ? t : cast(t, dtype);
  }
  Tensor cast(const Tensor& from, DType dtype) {
    Tensor to = ctx.empty({from.numel()}, dtype);
    ctx.kernel<CastKernel>()(ctx, from, to);
    return to;
  }
  std::vector<float> read(const Tensor& t) {
    const Tensor as_f32 = t.dtype() == DType::f32 ? t : cast(t, DType::f32);
    std::vector<float> values(static_cast<size_t>(t.numel()));
    ctx.backend->copy(values.data(), as_f32.raw(), as_f32.bytes(), *ctx.stream);
    ctx.stream->synchronize();
    return values;
  }
  /// All ranks have memory, and code is loaded: what waits for the device would wait for another rank.
  void meet() {
    ctx.stream->synchronize();
    world.barrier("prepared").wait();
  }
  /// In the order of the context's stream.
  void run(OpKind kind, const Tensor& input, const Tensor& output, ReduceOp op = ReduceOp::sum) {
    const DeviceCall call{.kind = kind, .input = input, .output = output, .reduce_op = op};
    ASSERT_TRUE(copies.connected() && PeerCopies::takes(call));
    const auto after = engine.backend().make_event();
    after->record(*ctx.stream);
    copies.begin(call, after.get(), *begin);
    while (!copies.go_on(call, *end)) std::this_thread::yield();
    end->wait(*ctx.stream);
  }

  Group& world;
  Engine engine;
  Context ctx;
  PeerCopies copies;
  std::unique_ptr<Event> begin, end;
};

class PeerCopiesCuda : public ::testing::TestWithParam<int> {
 protected:
  // Copies of one process and GPU may run in the order in which they were queued, so ranks can't share one.
  void SetUp() override { TRIREME_NEEDS_NVLINK(GetParam()); }
  /// As many ranks as the parameter says.
  static void on_ranks(const std::function<void(Rank&)>& body) {
    LocalWorld(GetParam(), {.timeout_ms = 60'000}).run([&](Group& world) {
      Rank rank(world);
      body(rank);
    });
  }
  static float sum_of(int64_t i) {
    float sum = 0;
    for (int rank = 0; rank < GetParam(); ++rank) sum += value_of(rank, i);
    return sum;
  }
};

/// More than a piece a rank; as many as fit once; sizes that nothing divides.
constexpr std::array<int64_t, 4> kCounts{20 << 20, 4 << 20, 1'000'003, 9'437'185};

TEST_P(PeerCopiesCuda, SumEverything) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const int64_t n : kCounts)
      on_ranks([&](Rank& rank) {
        const Tensor t = rank.filled(n, dtype);
        rank.meet();
        rank.run(OpKind::all_reduce, t, t);
        rank.meet();
        const std::vector<float> found = rank.read(t);
        int64_t i = 0;
        while (i < n && found[static_cast<size_t>(i)] == sum_of(i)) ++i;
        EXPECT_EQ(i, n) << name_of(dtype) << ": " << found[static_cast<size_t>(i)] << " instead of " << sum_of(i);
      });
}

TEST_P(PeerCopiesCuda, AverageInTheOrderOfRanks) {
  on_ranks([](Rank& rank) {
    const Tensor t = rank.filled(1'000'000, DType::f32);
    rank.meet();
    rank.run(OpKind::all_reduce, t, t, ReduceOp::average);
    rank.meet();
    const std::vector<float> found = rank.read(t);
    for (int64_t i = 0; i < t.numel(); ++i)
      ASSERT_EQ(found[static_cast<size_t>(i)], sum_of(i) * (1.0F / static_cast<float>(GetParam())));
  });
}

// Calls of all kinds that follow one another use the same places of the ranks' buffers.
TEST_P(PeerCopiesCuda, CallsFollowOneAnother) {
  on_ranks([](Rank& rank) {
    const int size = rank.world.size(), me = rank.world.rank();
    for (const int64_t part : {int64_t{3'000'001}, int64_t{600'000}}) {
      const Tensor everything = rank.filled(part * size, DType::f32);
      const Tensor own = rank.ctx.empty({part}, DType::f32),
                   gathered = rank.ctx.empty({part * size}, DType::f32);
      rank.meet();
      for (int round = 0; round < 7; ++round) {
        rank.run(OpKind::reduce_scatter, everything, own);
        rank.run(OpKind::all_gather, own, gathered);
        if (round % 2 == 0) continue;
        rank.run(OpKind::all_reduce, everything, everything);
        rank.run(OpKind::reduce_scatter, everything, own);
        rank.run(OpKind::all_gather, own,
                 everything);  // size times the sum; size^2 times what it was once all had the same
      }
      rank.meet();
      const std::vector<float> sums = rank.read(gathered), last = rank.read(own);
      const float factor = std::pow(static_cast<float>(size), 6.0F);
      for (int64_t i = 0; i < part * size; ++i)
        ASSERT_EQ(sums[static_cast<size_t>(i)], factor * sum_of(i)) << "parts of " << part << ", at " << i;
      for (int64_t i = 0; i < part; ++i)
        ASSERT_EQ(last[static_cast<size_t>(i)], sums[static_cast<size_t>(me * part + i)]);
    }
  });
}

TEST_P(PeerCopiesCuda, LeaveOthersToNccl) {
  on_ranks([](Rank& rank) {
    const auto takes = [&](OpKind kind, int64_t n, DType dtype, ReduceOp op) {
      const Tensor t = rank.ctx.empty({n}, dtype);
      return PeerCopies::takes({.kind = kind, .input = t, .output = t, .reduce_op = op});
    };
    EXPECT_TRUE(takes(OpKind::all_reduce, 1 << 20, DType::f32, ReduceOp::sum));
    EXPECT_FALSE(takes(OpKind::all_reduce, 1 << 10, DType::f32, ReduceOp::sum));
    EXPECT_FALSE(takes(OpKind::all_reduce, 1 << 20, DType::i32, ReduceOp::sum));
    EXPECT_FALSE(takes(OpKind::all_reduce, 1 << 20, DType::f32, ReduceOp::max));
    EXPECT_FALSE(takes(OpKind::broadcast, 1 << 20, DType::f32, ReduceOp::sum));
    EXPECT_TRUE(takes(OpKind::all_gather, 1 << 20, DType::i32, ReduceOp::sum));
  });
}

TEST_P(PeerCopiesCuda, AnAbortEndsWhatWaits) {
  std::atomic<bool> over = false;
  on_ranks([&](Rank& rank) {
    const Tensor t = rank.filled(20 << 20, DType::f32);
    rank.meet();
    if (rank.world.rank() != 0) {
      EXPECT_FALSE(rank.copies.is_given_up());
      while (!over) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      EXPECT_TRUE(rank.copies.is_given_up()) << "what it got from that rank would look like a result";
      return rank.copies.abort();
    }
    for (int i = 0; i < 3; ++i) rank.run(OpKind::all_reduce, t, t);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_FALSE(rank.end->done());
    const auto begin = steady_clock::now();
    rank.copies.abort();
    rank.ctx.stream->synchronize();
    EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(30));
    over = true;
  });
}

// A rank that gives up writes the words of the others too, by which they know how far their devices are.
TEST_P(PeerCopiesCuda, AnAbortElsewhereIsNoProgress) {
  std::atomic<int> full = 0, over = 0;
  on_ranks([&](Rank& rank) {
    const Tensor t = rank.filled(20 << 20, DType::f32);
    const DeviceCall call{.kind = OpKind::all_reduce, .input = t, .output = t};
    rank.meet();
    if (rank.world.rank() == 0) {
      while (full < rank.world.size() - 1) std::this_thread::yield();
      rank.copies.abort();
      ++over;
    } else {
      do {
        rank.copies.begin(call, nullptr, *rank.begin);
      } while (rank.copies.go_on(call, *rank.end));
      ++full;
      while (over == 0) std::this_thread::yield();
      bool goes_on = false;
      for (int i = 0; i < 100 && !goes_on; ++i) goes_on = rank.copies.go_on(call, *rank.end);
      EXPECT_FALSE(goes_on);
      ++over;
    }
    while (over < rank.world.size()) std::this_thread::yield();
    if (rank.world.rank() > 0) rank.copies.abort();
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, PeerCopiesCuda, ::testing::Values(2, 3, 4));

}  // namespace
}  // namespace trireme::comm
