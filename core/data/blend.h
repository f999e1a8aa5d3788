// Blend: which of several data sets each sample is taken from, so that the weights hold over every prefix.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace trireme {

/// Assigns sample i to a source such that after any n samples each source has been taken n times its share,
/// off by less than one: of the sources that may be taken, the one that has to be soonest (Tijdeman, "The
/// chairman assignment problem", Discrete Mathematics 32, 1980). Periodic, so any place is found at once;
/// shares that are no multiples of 1/n for an n up to kMaxPeriod are rounded to multiples of 1/kMaxPeriod.
class Blend {
 public:
  static constexpr int64_t kMaxPeriod = 65536;

  struct Draw {
    size_t source = 0;
    int64_t index = 0;  // how many samples of that source came before
  };

  /// Weights need not sum to 1. ConfigError unless all are positive and finite.
  explicit Blend(std::span<const double> weights);

  Draw operator()(int64_t sample) const;
  int64_t period() const { return static_cast<int64_t>(pattern_.size()); }

 private:
  std::vector<int64_t> per_period_;  // samples of each source in a period
  std::vector<Draw> pattern_;        // of the first period
};

}  // namespace trireme
