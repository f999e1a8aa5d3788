// Whether all ranks were told to do the same: hosts may have other copies of a file.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "comm/group.h"
#include "launcher/run_plan.h"

namespace trireme {

/// The first lines in which two texts differ, without the blanks before them; nothing where they are equal.
std::optional<std::pair<std::string, std::string>> first_difference(const std::string& a, const std::string& b);

/// ConfigError on all ranks (see refuse_together), which says what differs and where, unless all have the same experiment
/// and schedule. The paths of data and the number of threads may differ. Collective.
void check_same_run(const RunPlan& plan, Group& world);

}  // namespace trireme
