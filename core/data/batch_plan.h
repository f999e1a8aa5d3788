// How a global batch is divided: over the data ranks, and on each of them into micro-batches.
#pragma once

#include <cstdint>

namespace trireme {

struct BatchPlan {
  int64_t local_samples = 0;  // of one step on one data rank
  int64_t micro_batches = 0;  // of one step on one data rank: how often gradients are accumulated
};

/// Divides `global` samples over `data_size` ranks and micro-batches of `micro` samples. ConfigError that
/// says which numbers near would work when they don't divide.
BatchPlan plan_batch(int64_t global, int64_t micro, int64_t data_size);

}  // namespace trireme
