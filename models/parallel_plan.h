// ParallelPlan: how a model is divided over the ranks of a job. Pure: made, and refused, before anything is
// allocated or sent.
#pragma once

#include <vector>

#include "models/model_config.h"
#include "parallel/mesh.h"
#include "parallel/schedule/schedule.h"

namespace trireme {

/// The units [begin, end) of a model.
struct UnitRange {
  int64_t begin, end;
};

struct ParallelPlan {
  MeshShape mesh;
  Schedule schedule;
  std::vector<int64_t> first_unit;  // of each stage, then the number of units: [num_stages + 1]

  int64_t num_stages() const { return static_cast<int64_t>(schedule.rank_of_stage.size()); }
  int64_t rank_of(int64_t stage) const { return schedule.rank_of_stage[static_cast<size_t>(stage)]; }
  UnitRange units_of(int64_t stage) const {
    return {first_unit[static_cast<size_t>(stage)], first_unit[static_cast<size_t>(stage) + 1]};
  }
};

/// What a step gives each rank: the plan depends on it.
struct BatchSizes {
  int64_t micro = 1;          // samples of a micro-batch
  int64_t sequence = 1;       // tokens of a sample
  int64_t micro_batches = 1;  // of a step on one rank
};

/// ConfigError, naming the key and the numbers that work, when sizes, heads, tokens or blocks can't be
/// divided so. `model` resolved.
ParallelPlan plan_parallel(const ModelConfig& model, const ParallelConfig& config, const BatchSizes& batch,
                           int64_t ranks);

/// The cost of each unit (embedding, blocks, classifier) with samples of `sequence` tokens; see unit_costs.
std::vector<double> model_unit_costs(const ModelConfig& model, int64_t sequence);

}  // namespace trireme
