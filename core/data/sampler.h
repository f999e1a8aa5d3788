// SampleOrder: in which order the samples of one data set are drawn; a function of (seed, draw) alone, in
// constant memory, so a run can begin at any step.
#pragma once

#include <cstdint>

namespace trireme {

/// A permutation of [0, size) that is computed, not stored: a Feistel network with Philox as its round
/// function on the next power of four, walked until it falls below `size` (Black and Rogaway, "Ciphers with
/// arbitrary finite domains", CT-RSA 2002).
class Permutation {
 public:
  Permutation(int64_t size, uint64_t key, uint64_t tweak);
  int64_t operator()(int64_t index) const;

 private:
  uint64_t encipher(uint64_t value) const;

  uint64_t size_;
  uint64_t key_;
  uint64_t tweak_;
  int half_bits_;
};

/// Draw k takes sample k % n of epoch k / n: in order, or by a permutation of each epoch's own.
class SampleOrder {
 public:
  /// `source` tells the data sets of a blend apart. n = num_samples is at least 1.
  SampleOrder(int64_t num_samples, bool shuffle, uint64_t seed, uint64_t source = 0);
  int64_t sample_of(int64_t draw) const;

 private:
  int64_t num_samples_;
  bool shuffle_;
  uint64_t key_;
};

}  // namespace trireme
