// Whether a schedule can be run: complete, on the right ranks and free of deadlock.
#pragma once

#include <vector>

#include "parallel/schedule/schedule.h"

namespace trireme {

/// One action of a schedule: ranks[rank][index].
struct ActionPlace {
  int rank;
  size_t index;
};

/// Throws a ConfigError that names rank and action unless
/// - each rank has a stage, and actions of its own stages and of existing micro-batches alone;
/// - each stage and micro-batch has one F, and either one B or one I and one W;
/// - the ranks, each in its order, never wait for each other in a circle. F waits for the F of the stage
/// before; B
///   and I for the own F and for the B or I of the stage after; W for the own I. Sends wait for nothing.
void validate(const Schedule& schedule);

/// All actions in one order that keeps each rank's and has everything after what it waits for. ConfigError
/// when there is none; the schedule is otherwise valid.
std::vector<ActionPlace> execution_order(const Schedule& schedule);

}  // namespace trireme
