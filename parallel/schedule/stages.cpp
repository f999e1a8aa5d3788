#include "parallel/schedule/stages.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <map>
#include <numeric>

#include "core/error.h"

namespace trireme {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

/// A sum of the same numbers in another order is no improvement.
bool less(double a, double b) {
  return a < b - 1e-9 * std::max(1e-300, std::min(b, 1e300));
}

/// The best cut by dynamic programming: value(first k stages with the first n units) is the best of
/// join(value(k-1, j), cost of units [j, n)) over j.
template <class Join>
std::pair<double, std::vector<int64_t>> best_cut(std::span<const double> unit_costs, int64_t num_stages,
                                                 const Join& join) {
  const size_t units = unit_costs.size(), stages = static_cast<size_t>(num_stages);
  std::vector<double> before(units + 1, 0.0);  // costs of the units before
  std::partial_sum(unit_costs.begin(), unit_costs.end(), before.begin() + 1);
  std::vector<std::vector<double>> value(stages + 1, std::vector<double>(units + 1, kInfinite));
  std::vector<std::vector<size_t>> begin(stages + 1, std::vector<size_t>(units + 1, 0));
  value[0][0] = 0.0;
  for (size_t k = 1; k <= stages; ++k)
    for (size_t n = k; n <= units; ++n)
      for (size_t j = k - 1; j < n; ++j)
        if (const double v = join(value[k - 1][j], before[n] - before[j]); less(v, value[k][n]))
          value[k][n] = v, begin[k][n] = j;
  std::vector<int64_t> boundaries(stages + 1, static_cast<int64_t>(units));
  for (size_t k = stages, n = units; k > 0; --k) {
    n = begin[k][n];
    boundaries[k - 1] = static_cast<int64_t>(n);
  }
  return {value[stages][units], std::move(boundaries)};
}

/// What a cut for ranks of several stages is judged by, the first first.
using CutQuality = std::array<double, 3>;  // the costliest rank; squares of the ranks' costs, and of the stages'

CutQuality quality_of(std::span<const int64_t> cut, std::span<const double> unit_costs,
                      std::span<const int> rank_of_stage) {
  const std::vector<double> stages = stage_costs(unit_costs, cut);
  std::map<int, double> ranks;
  for (size_t s = 0; s < stages.size(); ++s) ranks[rank_of_stage[s]] += stages[s];
  CutQuality quality{};
  for (const auto& [rank, cost] : ranks) quality[0] = std::max(quality[0], cost), quality[1] += cost * cost;
  for (const double cost : stages) quality[2] += cost * cost;
  return quality;
}

bool is_better(const CutQuality& a, const CutQuality& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (less(a[i], b[i])) return true;
    if (less(b[i], a[i])) return false;
  }
  return false;
}

}  // namespace

std::vector<double> unit_costs(const GptSize& s) {
  constexpr double kOperationsPerByte = 100.0;  // what processors do while they move one, roughly
  const auto tokens = static_cast<double>(s.tokens), width = static_cast<double>(s.width);
  const double kv_width = width * static_cast<double>(s.kv_heads) / static_cast<double>(s.heads);
  const double weights = width * (2.0 * width + 2.0 * kv_width) + 2.0 * width * static_cast<double>(s.ffn);
  const double pairs = tokens * (tokens + 1.0) / 2.0;
  std::vector<double> costs;
  costs.push_back(tokens * width * 8.0 *
                  kOperationsPerByte);  // a row read and one written, of 4 bytes a channel
  costs.insert(costs.end(), static_cast<size_t>(s.layers), 2.0 * weights * tokens + 4.0 * width * pairs);
  costs.push_back(2.0 * width * static_cast<double>(s.vocab) * tokens);
  return costs;
}

std::vector<int64_t> cut_stages(std::span<const double> unit_costs, int64_t num_stages) {
  const auto units = static_cast<int64_t>(unit_costs.size());
  if (num_stages < 1 || num_stages > units)
    throw ConfigError(fmt::format(
        "parallel: {} pipeline stages (pipeline * chunks) for a model of {} units (embedding, blocks, "
        "classifier); 1 to {} stages work, or {} layers for these: change parallel.pipeline, parallel.schedule (zb-v has 2 "
        "chunks), parallel.chunks or model.layers",
        num_stages, units, units, std::max<int64_t>(1, num_stages - 2)));
  for (const double cost : unit_costs)
    TRIREME_ASSERT(cost >= 0.0 && cost < kInfinite, fmt::format("a unit costs {}", cost));
  const auto largest = [](double others, double stage) { return std::max(others, stage); };
  const double limit = best_cut(unit_costs, num_stages, largest).first;
  const auto squares = [&](double others, double stage) {
    return less(limit, stage) ? kInfinite : others + stage * stage;
  };
  return best_cut(unit_costs, num_stages, squares).second;
}

std::vector<int64_t> cut_stages_of_ranks(std::span<const double> unit_costs, std::span<const int> rank_of_stage) {
  const auto num_stages = std::ssize(rank_of_stage);
  std::vector<int64_t> cut = cut_stages(unit_costs, num_stages);
  CutQuality quality = quality_of(cut, unit_costs, rank_of_stage);
  for (bool better = true; better;) {
    better = false;
    const std::vector<int64_t> from = cut;
    for (int64_t first = 1; first < num_stages; ++first)  // boundaries [first, last] move: a unit leaves the stage at one
      for (int64_t last = first; last < num_stages; ++last)  // end of them for the stage at the other
        for (const int64_t by : {-1, 1}) {
          std::vector<int64_t> moved = from;
          for (int64_t b = first; b <= last; ++b) moved[static_cast<size_t>(b)] += by;
          if (std::ranges::adjacent_find(moved, std::greater_equal<>()) != moved.end()) continue;  // an empty stage
          if (const CutQuality q = quality_of(moved, unit_costs, rank_of_stage); is_better(q, quality))
            cut = std::move(moved), quality = q, better = true;
        }
  }
  return cut;
}

std::vector<int64_t> cut_stages_by_layers(std::span<const int64_t> layers_of_stage, int64_t num_stages,
                                          int64_t layers) {
  const auto given = static_cast<int64_t>(layers_of_stage.size());
  if (given != num_stages)
    throw ConfigError(fmt::format(
        "parallel.stages: {} numbers for {} pipeline stages (pipeline * chunks); give one a stage", given,
        num_stages));
  constexpr int64_t kMost = 1'000'000'000;  // so that no sum overflows
  std::vector<int64_t> boundaries{0};
  for (int64_t stage = 0; stage < given; ++stage) {
    const int64_t blocks = layers_of_stage[static_cast<size_t>(stage)];
    const int64_t others = (stage == 0 ? 1 : 0) + (stage + 1 == given ? 1 : 0);  // embedding, classifier
    if (blocks < 0 || (blocks == 0 && others == 0))
      throw ConfigError(
          fmt::format("parallel.stages: stage {} has {} layers; wanted 1 or more", stage, blocks));
    boundaries.push_back(boundaries.back() + std::min(blocks, kMost) + others);
  }
  if (const int64_t sum = boundaries.back() - 2; sum != layers)
    throw ConfigError(
        fmt::format("parallel.stages: [{}] are {} layers, but the model has {}; change parallel.stages or "
                    "model.layers",
                    fmt::join(layers_of_stage, ", "), sum, layers));
  return boundaries;
}

std::vector<double> stage_costs(std::span<const double> unit_costs, std::span<const int64_t> boundaries) {
  std::vector<double> costs;
  for (size_t s = 0; s + 1 < boundaries.size(); ++s)
    costs.push_back(
        std::accumulate(unit_costs.begin() + boundaries[s], unit_costs.begin() + boundaries[s + 1], 0.0));
  return costs;
}

}  // namespace trireme
