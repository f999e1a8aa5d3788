// What drawings tell a rank's stages apart by.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "parallel/schedule/timeline.h"

namespace trireme {

/// The lowest stage of each rank's actions.
inline std::vector<int> first_stages(const Timeline& timeline) {
  std::vector<int> first(timeline.ranks.size(), std::numeric_limits<int>::max());
  for (const TimedAction& a : timeline.actions) {
    int& stage = first[static_cast<size_t>(a.rank)];
    stage = std::min<int>(stage, a.action.stage);
  }
  return first;
}

}  // namespace trireme
