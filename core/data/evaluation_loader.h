// EvaluationLoader: the samples of validation data in order, once, split over the data ranks.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/data/batch.h"
#include "core/data/dataset.h"

namespace trireme {

/// Batch b holds geometry.micro samples on each rank: rank r takes samples [(b*d + r)*micro, (b*d + r +
/// 1)*micro) of all sources one after the other (weights and geometry.global are not used). Where samples run
/// out in the last batch, rows are filled with token 0 and target -1, so all ranks see as many batches of one
/// shape. No thread.
class EvaluationLoader {
 public:
  /// The first `max_samples` of all, whatever the number of ranks; all of the data when 0. ConfigError when a source does
  /// not hold one sample.
  EvaluationLoader(std::vector<WeightedDataset> sources, const BatchGeometry& geometry,
                   int64_t max_samples = 0);

  int64_t num_batches() const { return num_batches_; }
  std::optional<Batch> next();  // nothing when all were given
  void rewind() { next_batch_ = 0; }

 private:
  void read_sample(int64_t sample, Batch& batch, int64_t row) const;

  std::vector<WeightedDataset> sources_;
  BatchGeometry geometry_;
  int64_t num_samples_ = 0;
  int64_t num_batches_ = 0;
  int64_t next_batch_ = 0;
};

}  // namespace trireme
