// The ranks of this job, however it was started.
#pragma once

#include <functional>

#include "comm/group.h"
#include "core/error.h"

namespace trireme {

/// Wrong input of which all ranks know, and the user has been told.
class AlreadyTold : public ConfigError {
 public:
  using ConfigError::ConfigError;
};

/// Runs `body` on all ranks when mpirun or srun started this process as one of them, else on a group of one.
/// When `body` throws anything but AlreadyTold, the other ranks are told why before the exception goes on: their operations throw a
/// CommError that names this rank, and the launcher ends what is left when this process exits. `told_to_end` says,
/// in any thread, whether a signal asked this process to end (see MpiWorld).
void run_world(const GroupOptions& options, const std::function<void(Group& world)>& body,
               const std::function<bool()>& told_to_end = {});

}  // namespace trireme
