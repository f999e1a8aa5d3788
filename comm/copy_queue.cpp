#include "comm/copy_queue.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace trireme::comm {

CopyQueue::CopyQueue(int rank, int num_ranks, size_t num_lanes, size_t buffer_bytes, size_t max_ahead)
    : num_peers_(static_cast<size_t>(num_ranks) - 1),
      max_ahead_(max_ahead),
      planner_(rank, num_ranks, num_lanes, buffer_bytes),
      lanes_(num_lanes) {}

std::vector<size_t> CopyQueue::begin(const CopyArray& array) {
  TRIREME_ASSERT(next_ == steps_.size(), "copies of an operation before those of the last one are queued");
  steps_ = planner_.plan(array);
  next_ = 0;
  std::vector<size_t> used;
  for (const CopyStep& step : steps_)
    if (std::ranges::find(used, step.lane) == used.end()) used.push_back(step.lane);
  return used;
}

size_t CopyQueue::commands_of(const CopyStep& step) const {
  return step.kind == CopyStep::Kind::await ? num_peers_ : 1;
}

bool CopyQueue::has_room(Lane& lane, CopyDevice& device) const {
  for (; !lane.ahead.empty() && device.has_told(lane.ahead.front().last); lane.ahead.pop_front())
    lane.commands -= lane.ahead.front().commands;
  return lane.commands < max_ahead_;
}

// A piece that has begun is always queued as a whole, and so is one that it waits for: that has a lower number.
bool CopyQueue::go_on(CopyDevice& device) {
  for (; next_ < steps_.size(); ++next_) {
    const CopyStep& step = steps_[next_];
    Lane& lane = lanes_[step.lane];
    if (lane.present == 0 && !has_room(lane, device)) return false;
    device.queue(step);
    lane.present += commands_of(step);
    if (!step.is_last) continue;
    lane.commands += lane.present;
    lane.ahead.push_back({step, std::exchange(lane.present, 0)});
  }
  return true;
}

uint32_t CopyQueue::skip(uint32_t count, CopyDevice& device) {
  TRIREME_ASSERT(next_ == steps_.size(), "numbers are given away before all that has some is queued");
  for (const CopyStep& step : planner_.settle()) device.queue(step);
  return planner_.skip(count);
}

}  // namespace trireme::comm
