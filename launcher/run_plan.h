// RunPlan: what an experiment file comes to on a number of ranks: the sizes that it leaves open, the batch of
// a rank, the layout. Pure but for the data's tokenizer, which is read.
#pragma once

#include <string>
#include <vector>

#include "launcher/config.h"
#include "launcher/data_info.h"
#include "models/memory_estimate.h"
#include "models/parallel_plan.h"

namespace trireme {

struct RunPlan {
  Config config;  // with vocabulary, model and sequence length resolved
  DataInfo data;
  BatchSizes batch;
  ParallelPlan layout;
};

/// ConfigError when something doesn't fit, with the numbers that would. Without `needs_data`, a config that
/// gives its vocabulary is planned where its data isn't there.
RunPlan plan_run(Config config, int64_t ranks, bool needs_data = true);

/// What a pipeline rank will need; see estimate_memory.
MemoryNeeds memory_needs(const RunPlan& plan, int64_t pipeline_rank);

/// Where a rank runs; empty while that isn't known.
struct RankHome {
  std::string host;
  std::string device;  // "cuda:1"; empty: the host's cores
};

/// A table of what each rank does, with the memory that it will need. `homes` is empty or has one entry a
/// rank.
std::string layout_table(const RunPlan& plan, const std::vector<RankHome>& homes = {});

/// "11.8", of bytes in GiB.
std::string in_gib(double bytes);

/// Fills in the vocabulary that the model leaves open, by the data's. ConfigError when that is larger.
void take_vocab(ModelConfig& model, const DataInfo& data);

}  // namespace trireme
