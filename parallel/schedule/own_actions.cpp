#include "parallel/schedule/own_actions.h"

#include <algorithm>

#include "parallel/schedule/validate.h"

namespace trireme {

std::vector<size_t> own_actions_before(const Schedule& schedule, int rank, int maker, Direction direction) {
  using Table = std::vector<std::vector<size_t>>;  // [stage][micro-batch]
  Table output(schedule.rank_of_stage.size(), std::vector<size_t>(static_cast<size_t>(schedule.micro_batches), 0));
  Table input_gradient = output;
  std::vector<size_t> before(schedule.ranks.size(), 0);  // of each rank's next action
  for (const ActionPlace& place : execution_order(schedule)) {
    size_t& needed = before[static_cast<size_t>(place.rank)];
    const Action& a = schedule.ranks[static_cast<size_t>(place.rank)][place.index];
    if (a.is_forward() && a.stage > 0) needed = std::max(needed, output[a.stage - 1U][a.micro_batch]);
    if (a.makes_input_gradient() && a.stage + 1 < schedule.num_stages())
      needed = std::max(needed, input_gradient[a.stage + 1U][a.micro_batch]);
    if (place.rank == rank) needed = place.index + 1;
    if (a.is_forward()) output[a.stage][a.micro_batch] = needed;
    if (a.makes_input_gradient()) input_gradient[a.stage][a.micro_batch] = needed;
  }
  const Table& made = direction == Direction::forward ? output : input_gradient;
  std::vector<size_t> result;
  for (const uint16_t micro_batch : schedule.channel_order(maker, direction))
    result.push_back(made[static_cast<size_t>(maker)][micro_batch]);
  return result;
}

}  // namespace trireme
