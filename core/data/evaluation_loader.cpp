#include "core/data/evaluation_loader.h"

#include <algorithm>
#include <utility>

#include "core/data/blended_dataset.h"
#include "core/error.h"

namespace trireme {

EvaluationLoader::EvaluationLoader(std::vector<WeightedDataset> sources, const BatchGeometry& geometry,
                                   int64_t max_samples)
    : sources_(std::move(sources)), geometry_(geometry) {
  TRIREME_ASSERT(geometry.micro >= 1 && geometry.data_size >= 1, "batches without samples");
  check_lengths(sources_, geometry.sequence);
  for (const WeightedDataset& source : sources_)
    num_samples_ += source.dataset->num_samples(geometry.sequence);
  if (max_samples > 0) num_samples_ = std::min(num_samples_, max_samples);
  const int64_t per_batch = geometry.micro * geometry.data_size;
  num_batches_ = (num_samples_ + per_batch - 1) / per_batch;
}

void EvaluationLoader::read_sample(int64_t sample, Batch& batch, int64_t row) const {
  for (const WeightedDataset& source : sources_) {
    const int64_t count = source.dataset->num_samples(geometry_.sequence);
    if (sample < count)
      return source.dataset->read_sample(sample, geometry_.vocab, batch.tokens_of(row),
                                         batch.targets_of(row));
    sample -= count;
  }
}

std::optional<Batch> EvaluationLoader::next() {
  if (next_batch_ == num_batches_) return std::nullopt;
  const int64_t number = next_batch_++;
  Batch batch;
  batch.step = number + 1;
  batch.first_sample = geometry_.data_rank * geometry_.micro;
  batch.num_samples = geometry_.micro;
  batch.sequence = geometry_.sequence;
  batch.tokens.assign(static_cast<size_t>(geometry_.micro * geometry_.sequence), 0);
  batch.targets.assign(static_cast<size_t>(geometry_.micro * geometry_.sequence), -1);
  const int64_t first = number * geometry_.micro * geometry_.data_size + batch.first_sample;
  const int64_t present = std::clamp<int64_t>(num_samples_ - first, 0, geometry_.micro);
  for (int64_t i = 0; i < present; ++i) read_sample(first + i, batch, i);
  batch.num_targets = present * geometry_.sequence;
  return batch;
}

}  // namespace trireme
