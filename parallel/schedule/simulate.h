// How long a schedule takes and how many activations it keeps, from the times of its passes: what tests hold against
// the papers' formulas, what drawings show, and what a plan compares.
#pragma once

#include <vector>

#include "parallel/schedule/schedule.h"

namespace trireme {

/// Any unit of time. A whole backward takes both of its halves.
struct PassTimes {
  std::vector<double> forward, backward_input, backward_weight;  // by stage
  double transfer = 0.0;  // from one rank to another, beside the computation

  static PassTimes uniform(int num_stages, double forward, double backward_input, double backward_weight, double transfer = 0.0);
  double of(const Action& action) const;
};

/// One action as it was run, in a simulation or in a measured trace.
struct TimedAction {
  int rank;
  Action action;
  double begin, end;

  bool operator==(const TimedAction&) const = default;
};

/// Activations are counted in those of one stage and one micro-batch.
struct RankSimulation {
  double busy = 0.0;
  double idle_share = 0.0;        // of the makespan
  int64_t peak_activations = 0;   // alive at once, from F until B or W
  int64_t peak_before_input = 0;  // from F until B or I alone: those of which everything is needed
  int64_t peak_before_weight = 0;  // between I and W: those of which only the weight gradients' part is needed
};

struct Simulation {
  std::vector<TimedAction> actions;  // rank after rank, each in its order
  std::vector<RankSimulation> ranks;
  double makespan = 0.0;      // from the first action's begin to the last one's end
  double bubble_share = 0.0;  // the idle part of ranks x makespan

  /// The most of any rank.
  int64_t peak_activations() const;
};

/// Each rank begins each action as soon as it is free and what the action waits for has come. ConfigError for a
/// deadlock; the schedule is otherwise valid, and `times` has all stages.
Simulation simulate(const Schedule& schedule, const PassTimes& times);

}  // namespace trireme
