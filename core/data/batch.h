// Batch: the samples of one step that one data rank works on, as host arrays; and the numbers that define it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trireme {

struct BatchGeometry {
  int64_t global = 0;    // samples of one step over all ranks
  int64_t micro = 0;     // samples of one forward and backward pass
  int64_t sequence = 0;  // tokens of a sample
  int64_t vocab = 0;     // tokens must be below
  int64_t data_rank = 0;
  int64_t data_size = 1;
};

struct Batch {
  int64_t step = 0;          // from 1
  int64_t first_sample = 0;  // place of this rank's first sample among those of all ranks
  int64_t num_samples = 0;   // rows of this rank
  int64_t sequence = 0;
  int64_t num_targets = 0;       // targets that count: all but those of -1
  std::vector<int32_t> tokens;   // [num_samples, sequence]
  std::vector<int32_t> targets;  // [num_samples, sequence]; -1 in the padding of an evaluation's last batch

  std::span<int32_t> tokens_of(int64_t sample) { return row(tokens, sample); }
  std::span<int32_t> targets_of(int64_t sample) { return row(targets, sample); }

 private:
  std::span<int32_t> row(std::vector<int32_t>& values, int64_t sample) const {
    return std::span(values).subspan(static_cast<size_t>(sample * sequence), static_cast<size_t>(sequence));
  }
};

}  // namespace trireme
