// BlendedDataset: what a training run draws its samples from; one data set, or several by weight.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/data/blend.h"
#include "core/data/dataset.h"
#include "core/data/sampler.h"

namespace trireme {

/// An endless sequence of samples of one length. Each source starts a new epoch when it is used up, by
/// itself.
class BlendedDataset {
 public:
  /// ConfigError when a source does not hold one sample of `sequence` tokens.
  BlendedDataset(std::vector<WeightedDataset> sources, int64_t sequence, int64_t vocab, bool shuffle,
                 uint64_t seed);

  int64_t sequence() const { return sequence_; }
  /// Reads sample `draw` of the sequence, see TokenDataset::read_sample. Thread-safe.
  void read(int64_t draw, std::span<int32_t> tokens, std::span<int32_t> targets) const;

 private:
  std::vector<WeightedDataset> sources_;
  int64_t sequence_;
  int64_t vocab_;
  Blend blend_;
  std::vector<SampleOrder> orders_;  // one a source
};

/// Checks that each source holds at least one sample.
void check_lengths(std::span<const WeightedDataset> sources, int64_t sequence);

}  // namespace trireme
