// Which device each rank of a job computes on.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "comm/group.h"
#include "core/device.h"

namespace trireme {

/// What is to be known of a rank.
struct RankPlace {
  static constexpr int64_t kNoCuda = -1;      // a build without
  static constexpr int64_t kUnusedGpus = -2;  // the same, on a machine that has some

  int64_t machine = 0;   // a number for it
  int64_t process = 0;   // on that machine
  int64_t num_gpus = 0;  // that it sees, or one of the above
  int64_t gpu = 0;       // a number for the one that it would take, on that machine
};

struct DeviceChoice {
  Device device;
  std::string note;  // why it is not a GPU though some rank sees some; else empty
};

/// The index of the GPU that the `local_rank`-th rank of a machine takes, of `num_gpus` that it sees: its own where
/// launchers show each rank all of them, or only its own.
int gpu_index(int local_rank, int num_gpus);

/// What a rank computes on that would take GPU `index`, given `wanted` (run.device) and all ranks' places. `cuda`: a GPU
/// serves one process, though ranks that are threads of one may share it; ConfigError where there are not enough, which
/// says what to do. `auto`: GPUs where each rank has its own, else the CPU. Pure: all ranks come to the same conclusion.
DeviceChoice plan_device(std::string_view wanted, std::span<const RankPlace> places, int index);

/// The same for this job, `wanted` being auto, cpu or cuda; rank 0 prints the note. Collective over `world`.
Device choose_device(const std::string& wanted, Group& world);

}  // namespace trireme
