// Plans of copies, run on host memory by ranks that take their steps in any order that is allowed.
#include "comm/copy_plan.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <random>

namespace trireme::comm {
namespace {

using Spot = CopyStep::Spot;
using Value = uint32_t;

/// One operation, as all ranks call it.
struct Call {
  OpKind kind;
  size_t values;  // of a part; of the whole array of an all-reduce
};

/// Ranks that run their plans of some calls.
class Ranks {
 public:
  static constexpr size_t kBuffer = 24 << 10;

  Ranks(int size, size_t lanes, std::span<const Call> calls, uint32_t seed) : size_(size), random_(seed) {
    for (int rank = 0; rank < size; ++rank) {
      Rank& r = ranks_.emplace_back();
      r.buffer.resize(kBuffer);
      CopyPlanner planner(rank, size, lanes, kBuffer);
      for (const Call& call : calls) {
        CopyArray array{call.kind, call.values * sizeof(Value),
                        call.values * sizeof(Value) * static_cast<size_t>(size)};
        if (call.kind == OpKind::all_reduce) array = split_evenly(call.values * sizeof(Value), size, 16);
        Memory& memory = r.calls.emplace_back();
        memory.input.resize(call.kind == OpKind::all_gather ? array.part : array.bytes);
        for (size_t i = 0; i < memory.input.size() / sizeof(Value); ++i)
          put(memory.input, i, value_of(rank, r.calls.size(), i));
        memory.output.resize(call.kind == OpKind::reduce_scatter ? array.part : array.bytes);
        // In place, as a reducer does it.
        memory.in_place = call.kind == OpKind::all_reduce;
        for (const CopyStep& step : planner.plan(array)) r.steps.push_back({step, r.calls.size() - 1});
      }
    }
  }

  static Value value_of(int rank, size_t call, size_t i) {
    return static_cast<Value>(1 + i * 7 + call * 1000 + static_cast<size_t>(rank) * 100'000);
  }
  static Value get(const std::vector<std::byte>& from, size_t i) {
    Value value;
    std::memcpy(&value, from.data() + i * sizeof(Value), sizeof(Value));
    return value;
  }
  static void put(std::vector<std::byte>& to, size_t i, Value value) {
    std::memcpy(to.data() + i * sizeof(Value), &value, sizeof(Value));
  }

  /// Until all steps are done, one at a time of those that may be next; false when none may.
  bool run() {
    while (true) {
      std::vector<std::pair<int, size_t>> next;
      bool over = true;
      for (int rank = 0; rank < size_; ++rank) {
        Rank& r = ranks_[static_cast<size_t>(rank)];
        over = over && r.steps.empty();
        std::map<size_t, bool> lane_waits;
        bool copies_wait = false;  // those of a device are run in their order
        for (size_t i = 0; i < std::min<size_t>(r.steps.size(), 60); ++i) {
          const CopyStep& step = r.steps[i].step;
          const bool is_copy = step.kind == CopyStep::Kind::copy;
          if (!lane_waits[step.lane] && !(is_copy && copies_wait) && may_go(rank, step))
            next.emplace_back(rank, i);
          lane_waits[step.lane] = true;
          copies_wait = copies_wait || is_copy;
        }
      }
      if (over) return true;
      if (next.empty()) return false;
      const auto [rank, i] = next[random_() % next.size()];
      Rank& r = ranks_[static_cast<size_t>(rank)];
      take(rank, r.steps[i]);
      r.steps.erase(r.steps.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  const std::vector<std::byte>& result(int rank, size_t call) const {
    const Memory& memory = ranks_[static_cast<size_t>(rank)].calls[call];
    return memory.in_place ? memory.input : memory.output;
  }

 private:
  struct Memory {
    std::vector<std::byte> input, output;
    bool in_place = false;
  };
  struct StepOfCall {
    CopyStep step;
    size_t call;
  };
  struct Rank {
    std::vector<std::byte> buffer;
    std::deque<Memory> calls;
    std::deque<StepOfCall> steps;
    std::map<std::pair<CopyStep::Word, uint32_t>, bool> told;
  };

  bool may_go(int rank, const CopyStep& step) {
    if (step.kind != CopyStep::Kind::await) return true;
    for (int peer = 0; peer < size_; ++peer)
      if (peer != rank && !ranks_[static_cast<size_t>(peer)].told[{step.word, step.number}]) return false;
    return true;
  }

  std::byte* at(int rank, size_t call, const Spot& spot, size_t bytes) {
    Rank& r = ranks_[static_cast<size_t>(rank)];
    Memory& memory = r.calls[call];
    std::vector<std::byte>& in = spot.in == Spot::In::buffer ? ranks_[static_cast<size_t>(spot.rank)].buffer
                                 : spot.in == Spot::In::input || memory.in_place ? memory.input
                                                                                 : memory.output;
    EXPECT_LE(spot.offset + bytes, in.size());
    return in.data() + spot.offset;
  }

  void take(int rank, const StepOfCall& of_call) {
    const auto& [step, call] = of_call;
    switch (step.kind) {
      case CopyStep::Kind::copy:
        std::memcpy(at(rank, call, step.to, step.bytes), at(rank, call, step.from, step.bytes), step.bytes);
        break;
      case CopyStep::Kind::sum: {
        std::vector<Value> sums(step.bytes / sizeof(Value));
        for (int r = 0; r < size_; ++r) {
          Spot from = step.received;
          from.offset += static_cast<size_t>(r < rank ? r : r - 1) * step.stride;
          const std::byte* const part = at(rank, call, r == rank ? step.from : from, step.bytes);
          for (size_t i = 0; i < sums.size(); ++i) {
            Value value;
            std::memcpy(&value, part + i * sizeof(Value), sizeof(Value));
            sums[i] += value;
          }
        }
        std::memcpy(at(rank, call, step.to, step.bytes), sums.data(), step.bytes);
        if (step.also_to.in != Spot::In::nowhere)
          std::memcpy(at(rank, call, step.also_to, step.bytes), sums.data(), step.bytes);
        break;
      }
      case CopyStep::Kind::tell:
        ranks_[static_cast<size_t>(rank)].told[{step.word, step.number}] = true;
        break;
      case CopyStep::Kind::await:
        break;
    }
  }

  const int size_;
  std::minstd_rand random_;
  std::deque<Rank> ranks_;
};

void check(const Ranks& ranks, int size, std::span<const Call> calls) {
  for (size_t c = 0; c < calls.size(); ++c) {
    const auto [kind, values] = calls[c];
    const auto sum_of = [&](size_t i) {
      Value sum = 0;
      for (int rank = 0; rank < size; ++rank) sum += Ranks::value_of(rank, c + 1, i);
      return sum;
    };
    for (int rank = 0; rank < size; ++rank) {
      const auto& result = ranks.result(rank, c);
      ASSERT_EQ(result.size(),
                sizeof(Value) * values * (kind == OpKind::all_gather ? static_cast<size_t>(size) : 1));
      for (size_t i = 0; i < result.size() / sizeof(Value); ++i) {
        const Value wanted = kind == OpKind::all_reduce ? sum_of(i)
                             : kind == OpKind::reduce_scatter
                                 ? sum_of(static_cast<size_t>(rank) * values + i)
                                 : Ranks::value_of(static_cast<int>(i / values), c + 1, i % values);
        ASSERT_EQ(Ranks::get(result, i), wanted)
            << name_of(kind) << " " << c << ", rank " << rank << " of " << size << " at " << i;
      }
    }
  }
}

class CopyPlanTest : public ::testing::TestWithParam<int> {};

// Pieces are a part of kBuffer: some calls need many, some only one, and some parts are cut off or empty.
TEST_P(CopyPlanTest, GivesTheSameInAnyOrder) {
  const int size = GetParam();
  constexpr std::array<Call, 9> kCalls{{{OpKind::all_reduce, 9001},
                                        {OpKind::all_gather, 700},
                                        {OpKind::reduce_scatter, 1300},
                                        {OpKind::reduce_scatter, 5},
                                        {OpKind::all_reduce, 9},
                                        {OpKind::all_gather, 3},
                                        {OpKind::all_gather, 2100},
                                        {OpKind::all_reduce, 4096},
                                        {OpKind::reduce_scatter, 777}}};
  for (uint32_t seed = 1; seed <= 20; ++seed)
    for (const size_t lanes : {1, 2, 3}) {
      Ranks ranks(size, lanes, kCalls, seed);
      ASSERT_TRUE(ranks.run()) << "ranks wait for each other, with " << lanes << " lanes and seed " << seed;
      check(ranks, size, kCalls);
    }
}

INSTANTIATE_TEST_SUITE_P(Ranks, CopyPlanTest, ::testing::Values(2, 3, 4, 5, 8));

TEST(CopyPlan, PutsAPieceBeforeTheOneAheadIsFetched) {
  CopyPlanner planner(0, 2, 2, 4096);  // pieces of 1 KiB
  std::vector<std::pair<CopyStep::Word, uint32_t>> told;
  for (const CopyStep& step : planner.plan(split_evenly(6 << 10, 2, 16)))
    if (step.kind == CopyStep::Kind::tell) told.emplace_back(step.word, step.number);
  using enum CopyStep::Word;
  const std::vector<std::pair<CopyStep::Word, uint32_t>> wanted{{pushed, 1}, {summed, 1},  {pushed, 2},
                                                                {summed, 2}, {fetched, 1}, {pushed, 3},
                                                                {summed, 3}, {fetched, 2}, {fetched, 3}};
  EXPECT_EQ(told, wanted);
}

}  // namespace
}  // namespace trireme::comm
