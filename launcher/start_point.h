// Where a run begins: the checkpoint it resumes from, or the one whose weights it takes.
#pragma once

#include <filesystem>
#include <optional>

#include "comm/group.h"
#include "core/checkpoint/checkpoint.h"
#include "launcher/config.h"

namespace trireme {

struct StartPoint {
  std::optional<std::filesystem::path> resume;
  std::optional<std::filesystem::path> init_from;  // only without `resume`
};

/// Collective. Rank 0 looks, lets all ranks check what it found, says what it skipped, and puts what an interrupted writer
/// left in run.out in order; the others are told, since they might see another state of the file system.
StartPoint choose_start(const Config& config, Group& world);

/// Checkpoints of run.out that lie beyond `step` belong to a course that a run leaves which starts there, and are set aside:
/// once nothing that was read refuses the start. Collective; waits for rank 0's disk.
void leave_later_course(const Config& config, int64_t step, Group& world);

/// ConfigError naming the keys when the checkpoint's model is not the one of `config` (resolved).
void check_same_model(const CheckpointReader& reader, const ModelConfig& config);

}  // namespace trireme
