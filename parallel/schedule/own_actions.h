// What a message waits for of its own receiver: a receive that is posted earlier waits, and on a GPU takes room, for
// nothing but this rank itself.
#pragma once

#include <vector>

#include "parallel/schedule/schedule.h"

namespace trireme {

/// For each message that `rank` is sent by `maker`, a stage of another rank, in `direction`, in their order (see
/// Schedule::channel_order): how many of the rank's own actions must have been run before the message can be made. Never
/// more than those before the action that takes the message. The schedule is valid.
std::vector<size_t> own_actions_before(const Schedule& schedule, int rank, int maker, Direction direction);

}  // namespace trireme
