// Whether what the ranks of a plan hold fits, and what would.
#pragma once

#include "launcher/run_plan.h"

namespace trireme {

/// ConfigError when some rank of the plan will need more than the `available_bytes` that each has; it names changes
/// with which all fit, single ones if possible, or says that there are none. With `tries`, activations may be a tenth too
/// large: they are an estimate, and what may just fit is tried. Pure: all ranks come to the same conclusion.
void check_memory(const RunPlan& plan, double available_bytes, bool tries = true);

/// ConfigError when some rank of a model that is only used needs more than that for its weights, and where it `generates`,
/// for keys and values; 0: not known.
void check_inference_memory(const ModelConfig& model, const ParallelPlan& plan, bool generates, double available_bytes);

}  // namespace trireme
