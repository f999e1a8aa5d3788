// The table of a profile: where the time of a few steps went, by operation and by kernel.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/profiler.h"
#include "core/trace.h"

namespace trireme {

struct ProfiledSteps {
  int64_t count = 0;           // steps
  int64_t begin_ns = 0, end_ns = 0;  // on the tracer's clock
  double flops_per_step = 0.0;  // of the model, on this rank
  double peak_flops = 0.0;      // of this rank's device, a second; 0: unknown
};

/// What a device that works on its own did. Communication counts as exposed while no other work is running. `spans` are
/// the host's, which know how many operations were queued.
std::string profile_table(const ProfiledSteps& steps, std::span<const DeviceActivity> activities,
                          std::span<const Tracer::Span> spans);

/// The same for a host that does the work itself, from the spans of its operations.
std::string profile_table(const ProfiledSteps& steps, std::span<const Tracer::Span> spans);

/// When the device worked on each pass of a pipeline's schedule ("F0.3"): from its first kernel to its last one, the
/// communication beside it aside. Passes of one device follow one another.
std::vector<Tracer::Span> device_passes(std::span<const DeviceActivity> activities);

}  // namespace trireme
