// Evaluator: the loss of a model on data it is not trained on, summed over all ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "comm/group.h"
#include "core/data/evaluation_loader.h"
#include "models/parallel_model.h"

namespace trireme {

struct Evaluation {
  double loss = 0.0;   // mean, in nats a token
  int64_t tokens = 0;  // targets looked at
  std::optional<int64_t> bytes;  // of text that the targets stand for, where the tokenizer is known

  double perplexity() const;
  std::optional<double> bits_per_byte() const;
};

class Evaluator {
 public:
  /// The first `max_samples` of the sources; 0: all. `token_bytes[t]` is how many bytes of text token t stands for; empty when the tokenizer is not known.
  Evaluator(std::vector<WeightedDataset> sources, const BatchGeometry& geometry, int64_t max_samples,
            std::vector<int32_t> token_bytes);

  /// The same batches each time. Collective over `world`, in host memory: all ranks of the model, whose data ranks are
  /// those of `geometry`.
  Evaluation run(Context ctx, ParallelModel& model, Group& world);

 private:
  int32_t bytes_of(int32_t token) const;

  EvaluationLoader loader_;
  std::vector<int32_t> token_bytes_;
};

}  // namespace trireme
