// Runs a command as a child process, passes signals on to it, and waits for its end.
#pragma once

#include "launcher/launch_plan.h"

namespace trireme {

/// Starts the plan's command and returns its exit status (128 + n when signal n ended it).
///
/// SIGINT and SIGTERM become SIGUSR2, which mpirun hands to every rank (at the others it would kill them) and
/// which asks `trireme train` to stop with a checkpoint; when asked again, the child gets SIGTERM, at which
/// mpirun ends all ranks. SIGUSR1 and SIGUSR2 are passed on as they are. These requests wait until every rank
/// has its handlers, so that none is lost, and none ends a rank that is still starting. The child has a process
/// group of its own, so that a Ctrl-C at the terminal reaches this process alone and each rank is told once.
/// When this process is killed, the child gets SIGTERM. An mpirun that has not ended ten seconds after its
/// ranks is killed.
int run_supervised(const LaunchPlan& plan);

}  // namespace trireme
