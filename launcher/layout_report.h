// LayoutReport: where the ranks of a job run, and whether what they hold fits there.
#pragma once

#include <vector>

#include "comm/group.h"
#include "launcher/run_plan.h"

namespace trireme {

/// The host and device of every rank. Collective over `world`.
std::vector<RankHome> gather_homes(Group& world, Device device);

/// ConfigError when this rank would need more memory than it has of the device's. Collective over `world`.
void refuse_too_large(const RunPlan& plan, const Backend& backend, Group& world);

/// Bytes of the backend's memory that this rank may have: a share of them where ranks of a machine share it; 0: not known.
/// Collective.
double memory_of_rank(const Backend& backend, Group& world);

}  // namespace trireme
