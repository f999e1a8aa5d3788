// Ranks that copy as comm/copy_plan.h says, on host memory: hosts that queue steps and devices that take them do so in
// any order that is allowed.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "comm/copy_order.h"
#include "comm/copy_queue.h"

namespace trireme::comm {

/// One operation, as all ranks of a group call it.
struct CopyCall {
  OpKind kind;
  size_t values;  // of a part; of the whole array of an all-reduce
  size_t group = 0;
};

struct CopySettings {
  int size = 2;
  size_t lanes = 2;
  size_t max_ahead = 1'000'000;
  size_t groups = 1;
  bool ordered = true;  // groups take turns
  uint32_t skipped = 0;  // numbers of pieces, at first
  uint32_t seed = 1;
};

class CopyRanks {
 public:
  using Value = uint32_t;
  static constexpr size_t kBuffer = 24 << 10;

  CopyRanks(const CopySettings& settings, std::span<const CopyCall> calls) : settings_(settings), random_(settings.seed) {
    for (int rank = 0; rank < settings.size; ++rank) {
      Rank& r = ranks_.emplace_back(*this, rank);
      for (const CopyCall& call : calls) r.call(call);
    }
  }

  static Value value_of(int rank, size_t call, size_t i) {
    return static_cast<Value>(1 + i * 7 + call * 1000 + static_cast<size_t>(rank) * 100'000);
  }

  /// Until all is done, one move of a host or a device at a time, of those that may be next; false when none may. The
  /// hosts of ranks from `num_hosts` on never move.
  bool run(int num_hosts) {
    while (true) {
      std::vector<std::function<void()>> moves;
      bool over = true;
      for (int rank = 0; rank < settings_.size; ++rank) {
        Rank& r = ranks_[static_cast<size_t>(rank)];
        over = over && r.is_over();
        if (rank < num_hosts) r.add_moves_of_host(moves);
        r.add_moves_of_device(moves);
      }
      if (over) return true;
      bool moved = false;
      while (!moved && !moves.empty()) {
        const size_t i = random_() % moves.size();
        moved_ = true;
        moves[i]();
        moved = moved_;
        moves.erase(moves.begin() + static_cast<std::ptrdiff_t>(i));
      }
      if (!moved) return false;
    }
  }
  bool run() { return run(settings_.size); }

  /// The most commands that any lane was given before the first of them was done.
  size_t most_ahead() const { return most_ahead_; }

  void expect_results() const {
    for (const Rank& rank : ranks_) rank.expect_results();
  }

 private:
  struct Call {
    CopyCall call;
    CopyArray array;
    std::vector<std::byte> input, output;
    bool in_place;
    std::unique_ptr<CopyOrder::Turn> turn;
    bool begun = false;
  };
  struct Queued {
    CopyStep step;
    Call* call;
  };
  /// A rank in one group.
  struct Member final : CopyDevice {
    Member(const CopySettings& s, int rank)
        : buffer(kBuffer), copies(rank, s.size, s.lanes, kBuffer, s.max_ahead), commands(s.lanes) {}
    void queue(const CopyStep& step) override {
      queued->push_back({step, waiting.front()});
      commands[step.lane] += step.kind == CopyStep::Kind::await ? num_peers : 1;
      *most_ahead = std::max(*most_ahead, commands[step.lane]);
    }
    bool has_told(const CopyStep& step) override { return told[{step.word, step.number}]; }

    std::vector<std::byte> buffer;
    CopyQueue copies;
    std::deque<Call*> waiting;  // not all queued
    std::deque<Queued>* queued = nullptr;
    std::map<std::pair<CopyStep::Word, uint32_t>, bool> told;
    std::vector<size_t> commands;  // of each lane, that are queued and not done
    size_t num_peers = 0;
    size_t* most_ahead = nullptr;
  };

  class Rank {
   public:
    Rank(CopyRanks& all, int rank) : all_(all), rank_(rank) {
      for (size_t group = 0; group < all.settings_.groups; ++group) {
        Member& member = members_.emplace_back(all.settings_, rank);
        member.queued = &queued_;
        member.num_peers = static_cast<size_t>(all.settings_.size) - 1;
        member.most_ahead = &all.most_ahead_;
        member.copies.skip(all.settings_.skipped, member);
      }
    }

    void call(const CopyCall& c) {
      const size_t size = static_cast<size_t>(all_.settings_.size), bytes = c.values * sizeof(Value);
      // All-reduces are done in place, as a reducer does them.
      Call& call = calls_.emplace_back(Call{.call = c, .array = {c.kind, bytes, bytes * size}, .input = {}, .output = {},
                                            .in_place = c.kind == OpKind::all_reduce, .turn = nullptr});
      if (c.kind == OpKind::all_reduce) call.array = split_evenly(bytes, all_.settings_.size, 16);
      call.input.resize(c.kind == OpKind::all_gather ? call.array.part : call.array.bytes);
      for (size_t i = 0; i < call.input.size() / sizeof(Value); ++i) put(call.input, i, value_of(rank_, calls_.size(), i));
      call.output.resize(c.kind == OpKind::reduce_scatter ? call.array.part : call.array.bytes);
      call.turn = order_->take_turn();
      members_[c.group].waiting.push_back(&call);
    }

    bool is_over() const {
      return queued_.empty() && std::ranges::all_of(members_, [](const Member& m) { return m.waiting.empty(); });
    }

    void add_moves_of_host(std::vector<std::function<void()>>& moves) {
      for (Member& member : members_)
        if (!member.waiting.empty() && (member.waiting.front()->turn->has_come() || !all_.settings_.ordered))
          moves.push_back([&] { go_on(member); });
    }

    /// The first step of each lane; copies run in their order, whatever the lane or the group.
    void add_moves_of_device(std::vector<std::function<void()>>& moves) {
      std::map<std::pair<size_t, size_t>, bool> lane_waits;
      bool copies_wait = false;
      for (size_t i = 0; i < std::min<size_t>(queued_.size(), 60); ++i) {
        const CopyStep& step = queued_[i].step;
        const bool is_copy = step.kind == CopyStep::Kind::copy;
        bool& waits = lane_waits[{queued_[i].call->call.group, step.lane}];
        if (!waits && !(is_copy && copies_wait) && may_go(queued_[i])) moves.push_back([this, i] { take(i); });
        waits = true;
        copies_wait = copies_wait || is_copy;
      }
    }

    void expect_results() const {
      const auto size = static_cast<size_t>(all_.settings_.size);
      for (size_t c = 0; c < calls_.size(); ++c) {
        const auto& [kind, values, group] = calls_[c].call;
        const auto sum_of = [&](size_t i) {
          Value sum = 0;
          for (size_t rank = 0; rank < size; ++rank) sum += value_of(static_cast<int>(rank), c + 1, i);
          return sum;
        };
        const auto& result = calls_[c].in_place ? calls_[c].input : calls_[c].output;
        ASSERT_EQ(result.size(), sizeof(Value) * values * (kind == OpKind::all_gather ? size : 1));
        for (size_t i = 0; i < result.size() / sizeof(Value); ++i) {
          const Value wanted = kind == OpKind::all_reduce       ? sum_of(i)
                               : kind == OpKind::reduce_scatter ? sum_of(static_cast<size_t>(rank_) * values + i)
                                                                : value_of(static_cast<int>(i / values), c + 1, i % values);
          ASSERT_EQ(get(result, i), wanted) << name_of(kind) << " " << c << ", rank " << rank_ << " of " << size << " at " << i;
        }
      }
    }

   private:
    static Value get(const std::vector<std::byte>& from, size_t i) {
      Value value;
      std::memcpy(&value, from.data() + i * sizeof(Value), sizeof(Value));
      return value;
    }
    static void put(std::vector<std::byte>& to, size_t i, Value value) {
      std::memcpy(to.data() + i * sizeof(Value), &value, sizeof(Value));
    }

    void go_on(Member& member) {
      Call& call = *member.waiting.front();
      const size_t before = queued_.size();
      if (!call.begun) member.copies.begin(call.array);
      call.begun = true;
      const bool all = member.copies.go_on(member);
      all_.moved_ = all || queued_.size() > before;
      if (!all) return;
      call.turn.reset();
      member.waiting.pop_front();
    }

    bool may_go(const Queued& queued) {
      if (queued.step.kind != CopyStep::Kind::await) return true;
      for (int peer = 0; peer < all_.settings_.size; ++peer)
        if (peer != rank_ && !all_.ranks_[static_cast<size_t>(peer)].member_of(queued).has_told(queued.step)) return false;
      return true;
    }
    Member& member_of(const Queued& queued) { return members_[queued.call->call.group]; }

    std::byte* at(const Queued& queued, const CopyStep::Spot& spot, size_t bytes) {
      Call& call = *queued.call;
      using In = CopyStep::Spot::In;
      std::vector<std::byte>& in = spot.in == In::buffer ? all_.ranks_[static_cast<size_t>(spot.rank)].member_of(queued).buffer
                                   : spot.in == In::input || call.in_place ? call.input
                                                                           : call.output;
      EXPECT_LE(spot.offset + bytes, in.size());
      return in.data() + spot.offset;
    }

    void sum(const Queued& queued) {
      const CopyStep& step = queued.step;
      std::vector<Value> sums(step.bytes / sizeof(Value));
      for (int r = 0; r < all_.settings_.size; ++r) {
        CopyStep::Spot from = step.received;
        from.offset += static_cast<size_t>(r < rank_ ? r : r - 1) * step.stride;
        const std::byte* const part = at(queued, r == rank_ ? step.from : from, step.bytes);
        for (size_t i = 0; i < sums.size(); ++i) {
          Value value;
          std::memcpy(&value, part + i * sizeof(Value), sizeof(Value));
          sums[i] += value;
        }
      }
      std::memcpy(at(queued, step.to, step.bytes), sums.data(), step.bytes);
      if (step.also_to.in != CopyStep::Spot::In::nowhere)
        std::memcpy(at(queued, step.also_to, step.bytes), sums.data(), step.bytes);
    }

    /// The device takes a step.
    void take(size_t i) {
      const Queued queued = queued_[i];
      const CopyStep& step = queued.step;
      Member& member = member_of(queued);
      if (step.kind == CopyStep::Kind::copy)
        std::memcpy(at(queued, step.to, step.bytes), at(queued, step.from, step.bytes), step.bytes);
      if (step.kind == CopyStep::Kind::sum) sum(queued);
      if (step.kind == CopyStep::Kind::tell) member.told[{step.word, step.number}] = true;
      member.commands[step.lane] -= step.kind == CopyStep::Kind::await ? member.num_peers : 1;
      queued_.erase(queued_.begin() + static_cast<std::ptrdiff_t>(i));
    }

    CopyRanks& all_;
    const int rank_;
    const std::shared_ptr<CopyOrder> order_ = std::make_shared<CopyOrder>();
    std::deque<Member> members_;  // of each group
    std::deque<Call> calls_;
    std::deque<Queued> queued_;  // on the device
  };

  const CopySettings settings_;
  std::minstd_rand random_;
  size_t most_ahead_ = 0;
  bool moved_ = false;
  std::deque<Rank> ranks_;
};

}  // namespace trireme::comm
