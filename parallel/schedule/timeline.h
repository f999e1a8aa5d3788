// Timeline: when each rank of a pipeline ran which action, simulated or measured, and what follows from it:
// idle time and activations kept.
#pragma once

#include <vector>

#include "parallel/schedule/schedule.h"

namespace trireme {

struct TimedAction {
  int rank;
  Action action;
  double begin, end;

  bool operator==(const TimedAction&) const = default;
};

/// Activations are counted in those of one stage and one micro-batch.
struct RankTimeline {
  int64_t stages = 0;  // that it has actions of
  double busy = 0.0;
  double idle_share = 0.0;        // of the makespan
  int64_t peak_activations = 0;   // alive at once, from F until B or W
  int64_t peak_before_input = 0;  // from F until B or I alone: those of which everything is needed
  int64_t peak_before_weight =
      0;  // between I and W: those of which only the weight gradients' part is needed
};

struct Timeline {
  std::vector<TimedAction>
      actions;  // rank after rank, each in the order in which it ran them; the first begins at 0
  std::vector<RankTimeline> ranks;
  double makespan = 0.0;      // from the first action's begin to the last one's end
  double bubble_share = 0.0;  // the idle part of ranks x makespan

  int num_ranks() const { return static_cast<int>(ranks.size()); }
  /// The most of any rank.
  int64_t peak_activations() const;
  /// The same in micro-batches of a whole rank: a rank's activations divided by the number of its stages,
  /// which compares schedules that cut a model into different numbers of stages.
  double peak_micro_batches() const;
};

/// `actions` in any order, of ranks below `num_ranks`, times in any unit and from any moment on.
Timeline make_timeline(std::vector<TimedAction> actions, int num_ranks);

}  // namespace trireme
