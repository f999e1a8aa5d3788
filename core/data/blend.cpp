#include "core/data/blend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace trireme {
namespace {

std::vector<double> shares_of(std::span<const double> weights) {
  for (const double weight : weights)
    if (!(weight > 0.0) || !std::isfinite(weight))
      throw ConfigError(fmt::format("data: the weight {} of a source is not a positive number", weight));
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<double> shares;
  for (const double weight : weights) shares.push_back(weight / sum);
  return shares;
}

/// The shares as multiples of 1/period when they are that, within rounding; empty otherwise.
std::vector<int64_t> exact_counts(std::span<const double> shares, int64_t period) {
  std::vector<int64_t> counts;
  for (const double share : shares) {
    const double count = share * static_cast<double>(period);
    if (std::abs(count - std::round(count)) > 1e-7 || count < 0.5) return {};
    counts.push_back(std::llround(count));
  }
  return counts;
}

/// How often each source is taken in a period, at least once.
std::vector<int64_t> counts_of(std::span<const double> shares) {
  for (int64_t period = 1; period <= Blend::kMaxPeriod; ++period)
    if (auto counts = exact_counts(shares, period); !counts.empty()) return counts;
  std::vector<int64_t> counts;
  for (const double share : shares)
    counts.push_back(std::max<int64_t>(1, std::llround(share * static_cast<double>(Blend::kMaxPeriod))));
  return counts;
}

/// The source that sample `place` goes to when `taken` have been taken before it, of `counts` a period.
size_t choose(std::span<const int64_t> counts, std::span<const int64_t> taken, int64_t period,
              int64_t place) {
  const double slack = 1.0 / (2.0 * std::max(1.0, static_cast<double>(counts.size()) - 1.0));
  size_t best = counts.size();
  double soonest = 0.0;
  for (size_t s = 0; s < counts.size(); ++s) {
    const double share = static_cast<double>(counts[s]) / static_cast<double>(period);
    // In whole numbers, so that no rounding builds up.
    const double deficit =
        static_cast<double>(counts[s] * (place + 1) - taken[s] * period) / static_cast<double>(period);
    if (deficit < slack - 1e-9) continue;
    const double due = (1.0 - slack - deficit) / share;
    if (best == counts.size() || due < soonest) best = s, soonest = due;
  }
  TRIREME_ASSERT(best < counts.size(), "no source may be taken");
  return best;
}

}  // namespace

Blend::Blend(std::span<const double> weights) {
  TRIREME_ASSERT(!weights.empty(), "a blend of nothing");
  per_period_ = counts_of(shares_of(weights));
  const int64_t period = std::accumulate(per_period_.begin(), per_period_.end(), int64_t{0});
  std::vector<int64_t> taken(weights.size(), 0);
  pattern_.reserve(static_cast<size_t>(period));
  for (int64_t place = 0; place < period; ++place) {
    const size_t source = choose(per_period_, taken, period, place);
    pattern_.push_back({source, taken[source]++});
  }
  TRIREME_ASSERT(taken == per_period_, "a period of the blend does not end even");
}

Blend::Draw Blend::operator()(int64_t sample) const {
  const Draw& draw = pattern_[static_cast<size_t>(sample % period())];
  return {draw.source, draw.index + sample / period() * per_period_[draw.source]};
}

}  // namespace trireme
