// Loader: the batches of a training run, read ahead by a thread. What a step holds is a function of (seed,
// step) alone, so a resumed run starts a Loader at the step it needs.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <stop_token>
#include <thread>
#include <vector>

#include "core/data/batch.h"
#include "core/data/blended_dataset.h"

namespace trireme {

struct LoaderOptions {
  bool shuffle = true;
  uint64_t seed = 1;
  int prefetch = 2;        // batches read ahead; 0: read in next(), without a thread
  int64_t first_step = 1;  // the step of the first batch
};

/// Step s holds samples [(s-1)*global, s*global) of the sequence of a BlendedDataset; rank r of d gets the
/// r-th of d equal contiguous parts.
class Loader {
 public:
  /// ConfigError when the sources are too short or the batch does not divide (see plan_batch()).
  Loader(std::vector<WeightedDataset> sources, const BatchGeometry& geometry,
         const LoaderOptions& options = {});
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// This rank's part of the next step. Throws what reading threw, and again when called again.
  Batch next();

 private:
  Batch read(int64_t step) const;
  void read_ahead(std::stop_token stop);

  BlendedDataset data_;
  BatchGeometry geometry_;
  int64_t local_samples_;
  size_t prefetch_;
  int64_t next_step_;  // to be read

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Batch> ready_;
  std::exception_ptr error_;
  std::jthread thread_;  // last: it uses all of the above
};

}  // namespace trireme
