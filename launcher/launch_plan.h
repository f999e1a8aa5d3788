// What `trireme launch` starts: the mpirun line and its environment, decided from the machine. Pure, so that
// every kind of machine can be tested on any.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "launcher/machine.h"

namespace trireme {

struct LaunchRequest {
  int ranks = 1;
  int threads = 0;                           // of one rank; 0: the cores divided by the ranks
  std::vector<std::string> train_arguments;  // what follows `trireme train`
};

struct LaunchPlan {
  std::vector<std::pair<std::string, std::string>> environment;  // set besides what there is
  std::vector<std::string> command;
  std::vector<std::string> notes;  // for the user
  int ranks = 1;  // more than one: the command is mpirun
};

/// One rank is started without mpirun. More ranks than cores share them and yield while they wait. Ranks are
/// bound to cores of their own only when together they fill the machine: two runs side by side would be bound
/// to the same ones. ConfigError when mpirun is needed and missing.
LaunchPlan plan_launch(const LaunchRequest& request, const Machine& machine);

/// The plan as a line to type into a shell.
std::string to_shell_line(const LaunchPlan& plan);

}  // namespace trireme
