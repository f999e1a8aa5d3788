// What memory a rank will need, by class, before any of it is allocated: an estimate, for `trireme plan` and
// for refusing layouts that can't fit.
#pragma once

#include "models/model_config.h"
#include "models/parallel_plan.h"

namespace trireme {

struct MemoryNeeds {
  double parameters = 0.0, gradients = 0.0, optimizer = 0.0, activations = 0.0;  // bytes
  double total() const { return parameters + gradients + optimizer + activations; }
};

/// How values are kept.
struct MemorySettings {
  int64_t compute_bytes = 4;     // of an activation or parameter
  int64_t optimizer_values = 2;  // f32 numbers a parameter, with a master copy where there is one
};

/// The needs of pipeline rank `pipeline_rank`, on the tensor rank that has most. Activations are those that
/// backward needs of the micro-batches in flight, and one block's on top where blocks are recomputed; work
/// space is left out.
MemoryNeeds estimate_memory(const ModelConfig& model, const ParallelPlan& plan, bool sequence_parallel,
                            const BatchSizes& batch, const MemorySettings& settings, int64_t pipeline_rank);

/// The most micro-batches of each stage that are between forward and the end of backward at a time:
/// [num_stages].
std::vector<int64_t> peak_in_flight(const Schedule& schedule);

}  // namespace trireme
