// Whether all ranks were told to do the same: hosts may have other copies of a file.
#pragma once

#include "comm/group.h"
#include "launcher/run_plan.h"

namespace trireme {

/// ConfigError on all ranks (see refuse_together), which says what differs and where, unless all have the same experiment
/// and schedule. The paths of data and the number of threads may differ. Collective.
void check_same_run(const RunPlan& plan, Group& world);

}  // namespace trireme
