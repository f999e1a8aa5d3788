#include "core/data/loader.h"

#include <algorithm>
#include <utility>

#include "core/data/batch_plan.h"
#include "core/error.h"

namespace trireme {

Loader::Loader(std::vector<WeightedDataset> sources, const BatchGeometry& geometry,
               const LoaderOptions& options)
    : data_(std::move(sources), geometry.sequence, geometry.vocab, options.shuffle, options.seed),
      geometry_(geometry),
      local_samples_(plan_batch(geometry.global, geometry.micro, geometry.data_size).local_samples),
      prefetch_(static_cast<size_t>(std::max(0, options.prefetch))),
      next_step_(options.first_step) {
  TRIREME_ASSERT(geometry.data_rank >= 0 && geometry.data_rank < geometry.data_size, "no such data rank");
  TRIREME_ASSERT(options.first_step >= 1, "steps count from 1");
  if (prefetch_ > 0) thread_ = std::jthread([this](std::stop_token stop) { read_ahead(std::move(stop)); });
}

Loader::~Loader() {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
}

Batch Loader::read(int64_t step) const {
  Batch batch;
  batch.step = step;
  batch.first_sample = geometry_.data_rank * local_samples_;
  batch.num_samples = local_samples_;
  batch.sequence = geometry_.sequence;
  batch.num_targets = local_samples_ * geometry_.sequence;
  batch.tokens.resize(static_cast<size_t>(batch.num_targets));
  batch.targets.resize(static_cast<size_t>(batch.num_targets));
  const int64_t first_draw = (step - 1) * geometry_.global + batch.first_sample;
  for (int64_t i = 0; i < local_samples_; ++i)
    data_.read(first_draw + i, batch.tokens_of(i), batch.targets_of(i));
  return batch;
}

void Loader::read_ahead(std::stop_token stop) {
  for (;; ++next_step_) {
    Batch batch;
    std::exception_ptr error;
    try {
      batch = read(next_step_);
    } catch (...) {
      error = std::current_exception();
    }
    std::unique_lock lock(mutex_);
    const bool wanted = changed_.wait(lock, stop, [this] { return ready_.size() < prefetch_; });
    if (!wanted) return;
    if (error)
      error_ = error;
    else
      ready_.push_back(std::move(batch));
    changed_.notify_all();
    if (error) return;
  }
}

Batch Loader::next() {
  if (prefetch_ == 0) {
    Batch batch = read(next_step_);
    ++next_step_;
    return batch;
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !ready_.empty() || error_; });
  if (ready_.empty()) std::rethrow_exception(error_);
  Batch batch = std::move(ready_.front());
  ready_.pop_front();
  changed_.notify_all();
  return batch;
}

}  // namespace trireme
