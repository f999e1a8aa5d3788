// What memory a rank will need, by class, before any of it is allocated: an estimate, for `trireme plan` and
// for refusing layouts that can't fit.
#pragma once

#include "models/model_config.h"
#include "models/parallel_plan.h"

namespace trireme {

struct MemoryNeeds {
  double parameters = 0.0, gradients = 0.0, optimizer = 0.0, activations = 0.0;  // bytes
  double copies = 0.0;  // rounded gradients on their way
  double total() const { return copies + parameters + gradients + optimizer + activations; }
};

/// How values are kept.
struct MemorySettings {
  int64_t compute_bytes = 4;     // of an activation or parameter
  int64_t optimizer_bytes = 8;   // of a parameter, with its master where there is one
  int64_t reduce_bytes = 0;      // of a gradient's rounded copy that is sent; 0: none
};

/// The needs of pipeline rank `pipeline_rank`, on the tensor rank that has most. Activations are those that
/// backward needs of the micro-batches in flight, and one block's on top where blocks are recomputed; work
/// space is left out.
MemoryNeeds estimate_memory(const ModelConfig& model, const ParallelPlan& plan, bool sequence_parallel,
                            const BatchSizes& batch, const MemorySettings& settings, int64_t pipeline_rank);

/// Bytes that pipeline rank `pipeline_rank` holds of a model that is only used, in f32, on the tensor rank that has most:
/// weights, and where `generates`, the keys and values of a text of the model's context.
double estimate_inference_memory(const ModelConfig& model, const ParallelPlan& plan, bool generates, int64_t pipeline_rank);

}  // namespace trireme
