#include "core/data/batch_plan.h"

#include <fmt/format.h>

#include <cstdlib>
#include <string>

#include "core/error.h"

namespace trireme {
namespace {

/// The divisor of `n` nearest to `wanted`; the smaller of two.
int64_t nearest_divisor(int64_t n, int64_t wanted) {
  int64_t best = 1;
  for (int64_t d = 1; d <= n / d; ++d) {
    if (n % d != 0) continue;
    for (const int64_t candidate : {d, n / d})
      if (std::llabs(candidate - wanted) < std::llabs(best - wanted)) best = candidate;
  }
  return best;
}

std::string ways_out(int64_t global, int64_t micro, int64_t data_size) {
  const int64_t unit = micro * data_size;
  const int64_t below = global / unit * unit;
  std::string text =
      below > 0 ? fmt::format("use {} or {}", below, below + unit) : fmt::format("use {}", unit);
  if (global % data_size == 0)
    text += fmt::format(", or batch.micro {}", nearest_divisor(global / data_size, micro));
  return text;
}

}  // namespace

BatchPlan plan_batch(int64_t global, int64_t micro, int64_t data_size) {
  constexpr int64_t kMost = int64_t{1} << 31;
  if (global < 1 || micro < 1 || global > kMost || micro > kMost)
    throw ConfigError(fmt::format("batch.global = {} and batch.micro = {}: both must be from 1 to {}", global,
                                  micro, kMost));
  TRIREME_ASSERT(data_size >= 1, "a mesh without data ranks");
  if (micro > global || data_size > global || global % (micro * data_size) != 0)
    throw ConfigError(fmt::format("batch.global = {} does not divide into micro-batches of {} on {} {}: {}",
                                  global, micro, data_size, data_size == 1 ? "rank" : "ranks",
                                  ways_out(global, micro, data_size)));
  return {global / data_size, global / (micro * data_size)};
}

}  // namespace trireme
