// For tests of groups whose large sums and gathers go by copy engines.
#pragma once

#include <memory>

#include "comm/nccl/nccl_group.h"
#include "tests/cuda/gpu_rank.h"
#include "tests/cuda/nccl/nvlink.h"

namespace trireme {

/// Of one rank's groups.
inline DeviceGroupOptions by_copies(bool captured = true) {
  return {.copy_engines = std::make_shared<comm::CopyOrder>(), .captures_copies = captured};
}

inline bool uses_copies(const GpuRank& rank) {
  const auto* group = dynamic_cast<const comm::NcclGroup*>(rank.group.get());
  return group && group->uses_copies();
}

}  // namespace trireme
