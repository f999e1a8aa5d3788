// ModelLayout: over which ranks the layers of one pipeline stage are divided. Layers take it at construction.
#pragma once

#include "parallel/tensor_parallel.h"

namespace trireme {

struct ModelLayout {
  TensorParallel tensor;     // ranks that divide matrices, heads and vocabulary
  Group* context = nullptr;  // ranks that divide the tokens of each sample; null: none do. Outlives the model

  bool halves = false;       // samples are computed in two halves, each while activations of the other one travel

  int64_t context_size() const { return context ? context->size() : 1; }
};

}  // namespace trireme
