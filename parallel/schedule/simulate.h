// How long a schedule takes, from the times of its passes: what tests hold against the papers' formulas, what
// drawings show, and what a plan compares.
#pragma once

#include <vector>

#include "parallel/schedule/schedule.h"
#include "parallel/schedule/timeline.h"

namespace trireme {

/// Any unit of time. A whole backward takes both of its halves.
struct PassTimes {
  std::vector<double> forward, backward_input, backward_weight;  // by stage
  double transfer = 0.0;  // from one rank to another, beside the computation

  static PassTimes uniform(int num_stages, double forward, double backward_input, double backward_weight,
                           double transfer = 0.0);
  double of(const Action& action) const;
};

/// Each rank begins each action as soon as it is free and what the action waits for has come. ConfigError for
/// a deadlock; the schedule is otherwise valid, and `times` has all stages.
Timeline simulate(const Schedule& schedule, const PassTimes& times);

/// The median time of each stage's passes, so that a measured run can be set against what its schedule
/// allows. Half of a whole backward counts as input and half as weight part. A stage without passes has 0,
/// and so has the transfer.
PassTimes median_times(const Timeline& measured, int num_stages);

}  // namespace trireme
