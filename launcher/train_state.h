// What a training run keeps in a checkpoint: weights, optimizer state and progress, split over the ranks that
// write it and read back into any layout.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/checkpoint/checkpoint.h"
#include "core/nn/buckets.h"
#include "optim/optim_config.h"
#include "optim/optimizer.h"

namespace trireme {

/// How far a run has come: the `trainer` section.
struct TrainProgress {
  int64_t step = 0;     // the last one done
  int64_t tokens = 0;   // trained on so far, over all ranks
  int64_t skipped = 0;  // steps that were not applied
  int64_t seed = 0;
  int64_t global_batch = 0;
  int64_t sequence = 0;
  std::string optimizer;  // optim.kind; "" in checkpoints of other makers
};

/// This rank's share of writing. Of what `count` ranks hold alike, each writes one of as many equal ranges, this one
/// the index-th; else (`replicated` false) all of its own.
struct WriteShare {
  int64_t index = 0;
  int64_t count = 1;
  bool replicated = true;
  bool scalars = true;  // the optimizer's single numbers too: of all ranks, one does
};

/// Adds weights (in f32 where the optimizer keeps master weights) and optimizer state. Names: a parameter's own;
/// "optim.<slot>.<parameter>"; "optim.<scalar>".
void save_state(CheckpointWriter& writer, Context& ctx, std::span<const Shard> shards, const OptimizerState& optimizer,
                WriteShare share);

/// Reads `parameters` whole from the checkpoint. ConfigError when one is missing or has another shape.
void load_weights(CheckpointReader& reader, Context& ctx, std::span<Parameter* const> parameters);

/// ConfigError when the checkpoint's optimizer is known and is not that of `config`.
void check_same_optimizer(const CheckpointReader& reader, const TrainProgress& progress, const OptimConfig& config);

/// Reads what save_state wrote into the live state, of whatever layout it is now. ConfigError when it was another
/// optimizer's.
void load_state(CheckpointReader& reader, Context& ctx, std::span<const Shard> shards, const OptimizerState& optimizer);

void save_progress(CheckpointWriter& writer, const TrainProgress& progress);
TrainProgress load_progress(const CheckpointReader& reader);

}  // namespace trireme
