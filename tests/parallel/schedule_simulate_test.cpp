// The named schedules against their papers: order, bubbles and peak memory, for a grid of sizes.
#include "parallel/schedule/simulate.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "parallel/schedule/validate.h"

namespace trireme {
namespace {

struct Case {
  std::string name;
  int64_t ranks, chunks, micro_batches;
};

std::vector<Case> grid() {
  std::vector<Case> cases;
  for (const std::string& name : schedule_names())
    for (int64_t ranks = 1; ranks <= 8; ++ranks)
      for (int64_t micro_batches = 1; micro_batches <= 16; ++micro_batches)
        for (int64_t chunks = 1; chunks <= 3; ++chunks)
          if (const int64_t wanted = chunks_of_schedule(name); wanted == 0 || wanted == chunks)
            cases.push_back({name, ranks, chunks, micro_batches});
  return cases;
}

std::vector<Case> grid_of(std::string_view name) {
  std::vector<Case> cases = grid();
  std::erase_if(cases, [&](const Case& c) { return c.name != name; });
  return cases;
}

Schedule make(const Case& c) {
  return make_schedule(c.name, c.ranks, c.chunks, c.micro_batches);
}

/// Calls check(case, schedule, simulation) for each case, in time units of one forward pass of a whole rank
/// (F) where the input half takes B and the weight half W.
template <class Check>
void simulate_all(const std::vector<Case>& cases, double B, double W, const Check& check) {
  ASSERT_FALSE(cases.empty());
  for (const Case& c : cases) {
    SCOPED_TRACE(
        fmt::format("{}: {} ranks, {} chunks, {} micro-batches", c.name, c.ranks, c.chunks, c.micro_batches));
    const Schedule schedule = make(c);
    const double chunks = static_cast<double>(c.chunks);
    check(c, schedule,
          simulate(schedule, PassTimes::uniform(schedule.num_stages(), 1 / chunks, B / chunks, W / chunks)));
  }
}

double real(int64_t value) {
  return static_cast<double>(value);
}

TEST(ScheduleGridTest, EveryScheduleIsValidForEverySize) {
  ASSERT_EQ(grid().size(), 8U * 16U * (4U + 3U));
  for (const Case& c : grid()) {
    SCOPED_TRACE(
        fmt::format("{}: {} ranks, {} chunks, {} micro-batches", c.name, c.ranks, c.chunks, c.micro_batches));
    const Schedule s = make(c);
    EXPECT_NO_THROW(validate(s));
    EXPECT_EQ(s.num_ranks(), c.ranks);
    EXPECT_EQ(s.num_stages(), c.ranks * c.chunks);
    for (int rank = 0; rank < s.num_ranks(); ++rank) EXPECT_EQ(std::ssize(s.stages_of(rank)), c.chunks);
  }
}

// Gradients are sums over micro-batches: the same order at every stage and under every schedule keeps their
// bits.
TEST(ScheduleGridTest, EveryStageGoesThroughMicroBatchesInOrder) {
  for (const Case& c : grid()) {
    SCOPED_TRACE(
        fmt::format("{}: {} ranks, {} chunks, {} micro-batches", c.name, c.ranks, c.chunks, c.micro_batches));
    const Schedule s = make(c);
    std::vector<uint16_t> ascending;
    for (int64_t m = 0; m < c.micro_batches; ++m) ascending.push_back(static_cast<uint16_t>(m));
    for (int stage = 0; stage < s.num_stages(); ++stage) {
      EXPECT_EQ(s.channel_order(stage, Direction::forward), ascending);
      EXPECT_EQ(s.channel_order(stage, Direction::backward), ascending);
    }
    for (const std::vector<Action>& rank : s.ranks) {
      std::vector<int> last(static_cast<size_t>(s.num_stages()), -1);
      for (const Action& a : rank)
        if (a.makes_weight_gradient()) {
          EXPECT_EQ(a.micro_batch, ++last[a.stage]);
        }
    }
  }
}

TEST(ScheduleGridTest, SimulatedActionsKeepOrderAndDependencies) {
  for (const Case& c : grid()) {
    SCOPED_TRACE(
        fmt::format("{}: {} ranks, {} chunks, {} micro-batches", c.name, c.ranks, c.chunks, c.micro_batches));
    const Schedule s = make(c);
    constexpr double kTransfer = 0.25;
    const PassTimes times = PassTimes::uniform(s.num_stages(), 1.0, 1.5, 0.75, kTransfer);
    const Timeline run = simulate(s, times);
    EXPECT_EQ(simulate(s, times).actions, run.actions);
    std::vector<std::vector<double>> forward_end(s.rank_of_stage.size(),
                                                 std::vector<double>(static_cast<size_t>(c.micro_batches)));
    auto gradient_end = forward_end;
    std::vector<double> free(s.ranks.size(), 0.0);
    for (const TimedAction& t : run.actions) {
      EXPECT_GE(t.begin, free[static_cast<size_t>(t.rank)]);
      free[static_cast<size_t>(t.rank)] = t.end;
      EXPECT_DOUBLE_EQ(t.end - t.begin, times.of(t.action));
      if (t.action.is_forward()) forward_end[t.action.stage][t.action.micro_batch] = t.end;
      if (t.action.makes_input_gradient()) gradient_end[t.action.stage][t.action.micro_batch] = t.end;
    }
    for (const TimedAction& t : run.actions) {
      const Action& a = t.action;
      const auto transfer_from = [&](int stage) {
        return s.rank_of_stage[static_cast<size_t>(stage)] == t.rank ? 0.0 : kTransfer;
      };
      if (a.is_forward() && a.stage > 0) {
        EXPECT_GE(t.begin, forward_end[a.stage - 1U][a.micro_batch] + transfer_from(a.stage - 1));
      }
      if (a.makes_input_gradient()) {
        EXPECT_GE(t.begin, forward_end[a.stage][a.micro_batch]);
      }
      if (a.makes_input_gradient() && a.stage + 1 < s.num_stages()) {
        EXPECT_GE(t.begin, gradient_end[a.stage + 1U][a.micro_batch] + transfer_from(a.stage + 1));
      }
      if (a.kind == ActionKind::backward_weight) {
        EXPECT_GE(t.begin, gradient_end[a.stage][a.micro_batch]);
      }
    }
  }
}

// Huang et al. 2019, section 2.3: bubble O((p-1)/(m+p-1)). All m micro-batches are alive at the end of
// forward.
TEST(ScheduleFormulaTest, Gpipe) {
  simulate_all(grid_of("gpipe"), 1.0, 1.0, [](const Case& c, const Schedule&, const Timeline& run) {
    EXPECT_NEAR(run.bubble_share, real(c.ranks - 1) / real(c.micro_batches + c.ranks - 1), 1e-9);
    for (const RankTimeline& rank : run.ranks) EXPECT_EQ(rank.peak_activations, c.micro_batches);
  });
}

// Narayanan et al. 2021, section 2.2.1: the bubble takes (p-1)(t_f+t_b), p micro-batches are in flight at the
// most. A rank has as many as there are ranks from it to the end.
TEST(ScheduleFormulaTest, OneForwardOneBackward) {
  simulate_all(grid_of("1f1b"), 1.0, 1.0, [](const Case& c, const Schedule&, const Timeline& run) {
    EXPECT_NEAR(run.bubble_share, real(c.ranks - 1) / real(c.micro_batches + c.ranks - 1), 1e-9);
    for (int64_t r = 0; r < c.ranks; ++r)
      EXPECT_EQ(run.ranks[static_cast<size_t>(r)].peak_activations, std::min(c.micro_batches, c.ranks - r));
  });
}

// Narayanan et al. 2021, section 2.2.2: the bubble takes (p-1)(t_f+t_b)/v, for m a multiple of p. Other m are
// more than the last multiple and no worse than 1f1b. The peak, in stages: Megatron-LM's warm-up and one
// more, where there are enough micro-batches.
TEST(ScheduleFormulaTest, Interleaved) {
  simulate_all(grid_of("interleaved"), 1.0, 1.0, [](const Case& c, const Schedule&, const Timeline& run) {
    const double whole = 3.0 * real(c.ranks - 1);  // 1f1b's bubble
    const double bubble = run.makespan - 3.0 * real(c.micro_batches);
    if (c.micro_batches % c.ranks == 0) {
      EXPECT_NEAR(run.bubble_share, real(c.ranks - 1) / real(c.chunks * c.micro_batches + c.ranks - 1), 1e-9);
      EXPECT_NEAR(bubble, whole / real(c.chunks), 1e-9);
    }
    EXPECT_LE(bubble, whole + 1e-9);
    for (int64_t r = 0; r < c.ranks && c.chunks > 1; ++r) {
      const int64_t warmup = 2 * (c.ranks - 1 - r) + (c.chunks - 1) * c.ranks;
      const int64_t peak = run.ranks[static_cast<size_t>(r)].peak_activations;
      EXPECT_LE(peak, std::min(warmup + 1, c.micro_batches * c.chunks));
      if (c.micro_batches >= 2 * c.ranks) {
        EXPECT_EQ(peak, warmup + 1);
      }
    }
  });
}

// Qi et al. 2023, table 2: ZB-H1's bubble takes (p-1)(F+B-W), where 1f1b's takes (p-1)(F+B+W), both with
// memory for p micro-batches on the fullest rank. The formula is for times that are all alike and m >= p.
TEST(ScheduleFormulaTest, ZeroBubbleH1) {
  simulate_all(grid_of("zb-h1"), 1.0, 1.0, [](const Case& c, const Schedule&, const Timeline& run) {
    const double bubble = run.makespan - 3.0 * real(c.micro_batches);
    if (c.micro_batches >= c.ranks) {
      EXPECT_NEAR(bubble, real(c.ranks - 1), 1e-9);
    }
    if (c.ranks > 1) {
      EXPECT_LT(bubble, 3.0 * real(c.ranks - 1) - 0.5);
    }
    EXPECT_EQ(run.peak_activations(), std::min(c.micro_batches, c.ranks));
    for (int64_t r = 0; r < c.ranks;
         ++r) {  // no rank keeps more that waits for I than under 1f1b; r wait for W
      const RankTimeline& rank = run.ranks[static_cast<size_t>(r)];
      EXPECT_EQ(rank.peak_before_input, std::min(c.micro_batches, c.ranks - r));
      EXPECT_EQ(rank.peak_before_weight, std::min(c.micro_batches, r + 1));
    }
  });
}

// Qi et al. 2023, section 6: ZB-V has 1f1b's memory and no bubble but where the pipeline fills: (p-1)F/2 in
// all, as the first micro-batch passes half a rank's layers at a time. Reached from m = 3p/2 on, where all
// times are alike.
TEST(ScheduleFormulaTest, ZeroBubbleV) {
  simulate_all(grid_of("zb-v"), 1.0, 1.0, [](const Case& c, const Schedule&, const Timeline& run) {
    const double bubble = run.makespan - 3.0 * real(c.micro_batches);
    if (2 * c.micro_batches >= 3 * c.ranks) {
      EXPECT_NEAR(bubble, 0.5 * real(c.ranks - 1), 1e-9);
    }
    if (c.ranks > 1) {
      EXPECT_LT(bubble, 3.0 * real(c.ranks - 1) - 0.5);
    }
    EXPECT_LE(run.peak_micro_batches(), real(std::min(c.micro_batches, c.ranks)));
  });
}

// What a user chooses by, for times as they are measured: I longer than F, W shorter, messages that take
// time.
TEST(ScheduleFormulaTest, ZeroBubbleSchedulesBeat1f1bWithUnequalTimesToo) {
  const auto makespan = [](const Case& c) {
    const Schedule s = make(c);
    const double n = real(c.chunks);
    return simulate(s, PassTimes::uniform(s.num_stages(), 1.0 / n, 1.2 / n, 0.8 / n, 0.05)).makespan;
  };
  for (int64_t p = 2; p <= 8; ++p)
    for (const int64_t m : {p, 2 * p, 4 * p}) {
      SCOPED_TRACE(fmt::format("{} ranks, {} micro-batches", p, m));
      const double plain = makespan({"1f1b", p, 1, m});
      EXPECT_LT(makespan({"zb-h1", p, 1, m}), plain);
      EXPECT_LT(makespan({"zb-v", p, 2, m}), plain);
    }
}

TEST(SimulateTest, SharesAndPeaksByHand) {
  const Schedule s{"by hand",
                   1,
                   {0, 1},
                   {{{ActionKind::forward, 0, 0}, {ActionKind::backward, 0, 0}},
                    {{ActionKind::forward, 1, 0},
                     {ActionKind::backward_input, 1, 0},
                     {ActionKind::backward_weight, 1, 0}}}};
  const Timeline run = simulate(s, {{1.0, 2.0}, {0.5, 1.0}, {0.5, 3.0}, 0.25});
  const std::vector<TimedAction> wanted{{0, s.ranks[0][0], 0.0, 1.0},
                                        {0, s.ranks[0][1], 4.5, 5.5},
                                        {1, s.ranks[1][0], 1.25, 3.25},
                                        {1, s.ranks[1][1], 3.25, 4.25},
                                        {1, s.ranks[1][2], 4.25, 7.25}};
  EXPECT_EQ(run.actions, wanted);
  EXPECT_DOUBLE_EQ(run.makespan, 7.25);
  EXPECT_DOUBLE_EQ(run.ranks[0].idle_share, 1.0 - 2.0 / 7.25);
  EXPECT_DOUBLE_EQ(run.bubble_share, 1.0 - 8.0 / 14.5);
  EXPECT_EQ(run.ranks[1].peak_activations, 1);
  EXPECT_EQ(run.ranks[0].peak_before_weight, 0);
  EXPECT_EQ(run.ranks[1].peak_before_weight, 1);
}

}  // namespace
}  // namespace trireme
