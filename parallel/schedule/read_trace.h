// Measured timelines, from the traces that ranks write (core/trace.h).
#pragma once

#include <filesystem>
#include <span>

#include "parallel/schedule/timeline.h"

namespace trireme {

/// The actions of one step, from one trace a pipeline rank, in the order of these ranks: all spans whose name
/// is that of an action ("F0.3", see to_string), those of the device where the device works on its own,
/// `step` counting the recorded steps from 0, or from the last one back: -1, -2, ... Times in
/// milliseconds; the ranks' clocks are taken as one, which they are on one machine. ConfigError that names
/// the file when it can't be read, is no trace, or has no such spans or fewer steps.
Timeline read_trace(std::span<const std::filesystem::path> files, int64_t step);

}  // namespace trireme
