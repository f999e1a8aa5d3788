#include "launcher/memory_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <optional>

#include "core/error.h"

namespace trireme {
namespace {

/// The needs of the rank that has most.
MemoryNeeds largest_needs(const RunPlan& plan) {
  MemoryNeeds largest;
  for (int64_t rank = 0; rank < plan.layout.mesh.size(Axis::pipeline); ++rank)
    if (const MemoryNeeds needs = memory_needs(plan, rank); needs.total() > largest.total()) largest = needs;
  return largest;
}

/// Activations are an estimate; only a layout that is far off is refused by it.
bool fits(const MemoryNeeds& needs, double available_bytes) {
  constexpr double kSureShare = 0.7;
  return needs.total() - (1.0 - kSureShare) * needs.activations <= available_bytes;
}

/// The same run with a change; nothing where that can't work.
std::optional<RunPlan> changed(const RunPlan& plan, const std::function<void(Config&)>& change) {
  Config config = plan.config;
  config.parallel.data = 0;
  change(config);
  try {
    return plan_run(std::move(config), plan.layout.mesh.ranks(), /*needs_data=*/false);
  } catch (const ConfigError&) {
    return std::nullopt;
  }
}

/// What fits, each by one change of a key, on as many ranks; the least change of a key first.
std::vector<std::string> ways_out(const RunPlan& plan, double available_bytes) {
  std::vector<std::string> ways;
  const auto fits_with = [&](const std::function<void(Config&)>& change) {
    const auto other = changed(plan, change);
    return other && fits(largest_needs(*other), available_bytes);
  };
  const auto try_values = [&](const char* key, const std::vector<int64_t>& values, const auto& field) {
    for (const int64_t value : values)
      if (fits_with([&](Config& c) { field(c) = value; })) return ways.push_back(fmt::format("{}: {}", key, value));
  };
  const Config& c = plan.config;
  std::vector<int64_t> smaller, more_tensor, more_pipeline;
  for (int64_t micro = c.batch.micro / 2; micro > 0; micro /= 2) smaller.push_back(micro);
  for (int64_t n = 2; n <= plan.layout.mesh.ranks(); ++n) {
    if (n > c.parallel.tensor) more_tensor.push_back(n);
    if (n > c.parallel.pipeline) more_pipeline.push_back(n);
  }
  try_values("batch.micro", smaller, [](Config& x) -> int64_t& { return x.batch.micro; });
  for (const char* mode : {"selective", "full"})
    if (mode != c.model.recompute && c.model.recompute != "full" && fits_with([&](Config& x) { x.model.recompute = mode; })) {
      ways.push_back(fmt::format("model.recompute: {}", mode));
      break;
    }
  if (!c.parallel.sequence && fits_with([](Config& x) { x.parallel.sequence = true; }))
    ways.emplace_back("parallel.sequence: true");
  try_values("parallel.tensor", more_tensor, [](Config& x) -> int64_t& { return x.parallel.tensor; });
  try_values("parallel.pipeline", more_pipeline, [](Config& x) -> int64_t& { return x.parallel.pipeline; });
  return ways;
}

}  // namespace

void check_memory(const RunPlan& plan, double available_bytes) {
  const MemoryNeeds needs = largest_needs(plan);
  if (fits(needs, available_bytes)) return;
  const std::vector<std::string> ways = ways_out(plan, available_bytes);
  throw ConfigError(fmt::format(
      "a rank of this layout needs about {} GiB (parameters {}, gradients {}, optimizer {}, activations {}) and has {}; {}",
      in_gib(needs.total()), in_gib(needs.parameters), in_gib(needs.gradients + needs.copies), in_gib(needs.optimizer),
      in_gib(needs.activations), in_gib(available_bytes),
      ways.empty() ? "no change of batch.micro, model.recompute, parallel.sequence, parallel.tensor or parallel.pipeline "
                     "alone makes it fit: combine them, take a smaller model, or more or larger machines"
                   : fmt::format("any of these fits: {}", fmt::join(ways, "; "))));
}

void check_inference_memory(const ModelConfig& model, const ParallelPlan& plan, bool generates, double available_bytes) {
  double most = 0.0;
  for (int64_t rank = 0; rank < plan.mesh.size(Axis::pipeline); ++rank)
    most = std::max(most, estimate_inference_memory(model, plan, generates, rank));
  if (available_bytes == 0.0 || most <= available_bytes) return;
  throw ConfigError(fmt::format("a rank needs about {} GiB for {} and has {}; divide the model over more ranks (mpirun -n) with "
                                "--tensor or --pipeline",
                                in_gib(most), generates ? "weights, keys and values" : "weights", in_gib(available_bytes)));
}

}  // namespace trireme
