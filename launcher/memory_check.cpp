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

/// Activations are an estimate, within a tenth or so (tests/launcher/memory_needs_test.cpp): what may just fit is tried.
constexpr double kSureShare = 0.9;

bool fits(const MemoryNeeds& needs, double available_bytes, double share_of_activations) {
  return needs.total() - (1.0 - share_of_activations) * needs.activations <= available_bytes;
}

/// Another value of a key.
struct Change {
  std::string key, value;
  std::function<void(Config&)> apply;
  std::string text() const { return fmt::format("{}: {}", key, value); }
};

/// The same run with changes; nothing where that can't work.
std::optional<RunPlan> changed(const RunPlan& plan, std::initializer_list<const Change*> changes) {
  Config config = plan.config;
  config.parallel.data = 0;
  for (const Change* change : changes) change->apply(config);
  try {
    return plan_run(std::move(config), plan.layout.mesh.ranks(), /*needs_data=*/false);
  } catch (const ConfigError&) {
    return std::nullopt;
  }
}

/// What may need less on as many ranks: key after key, the least change of each first.
std::vector<Change> possible_changes(const RunPlan& plan) {
  const Config& c = plan.config;
  std::vector<Change> all;
  const auto add_number = [&](const char* key, int64_t value, const auto& field) {
    all.push_back({key, fmt::format("{}", value), [=](Config& x) { field(x) = value; }});
  };
  for (int64_t micro = c.batch.micro / 2; micro > 0; micro /= 2)
    add_number("batch.micro", micro, [](Config& x) -> int64_t& { return x.batch.micro; });
  for (const char* mode : {"selective", "full"})
    if (mode != c.model.recompute && c.model.recompute != "full")
      all.push_back({"model.recompute", mode, [mode](Config& x) { x.model.recompute = mode; }});
  if (!c.parallel.sequence) all.push_back({"parallel.sequence", "true", [](Config& x) { x.parallel.sequence = true; }});
  for (int64_t n = c.parallel.tensor + 1; n <= plan.layout.mesh.ranks(); ++n)
    add_number("parallel.tensor", n, [](Config& x) -> int64_t& { return x.parallel.tensor; });
  for (int64_t n = c.parallel.pipeline + 1; n <= plan.layout.mesh.ranks(); ++n)
    add_number("parallel.pipeline", n, [](Config& x) -> int64_t& { return x.parallel.pipeline; });
  std::erase_if(all, [&](const Change& change) { return !changed(plan, {&change}); });
  return all;
}

/// The first value of each key with which all fits, beside `other` where there is one.
std::vector<std::string> ways_with(const RunPlan& plan, const std::vector<Change>& changes, const Change* other, double available_bytes) {
  std::vector<std::string> ways;
  std::string done = other ? other->key : "";
  for (const Change& change : changes) {
    if (change.key == done || (other && change.key == other->key)) continue;
    const auto plan_with = other ? changed(plan, {other, &change}) : changed(plan, {&change});
    if (!plan_with || !fits(largest_needs(*plan_with), available_bytes, 1.0)) continue;
    ways.push_back(other ? fmt::format("{} with {}", other->text(), change.text()) : change.text());
    done = change.key;
  }
  return ways;
}

/// What fits: single changes, or where there are none, those beside the ones that save most.
std::vector<std::string> ways_out(const RunPlan& plan, double available_bytes) {
  const std::vector<Change> changes = possible_changes(plan);
  std::vector<std::string> ways = ways_with(plan, changes, nullptr, available_bytes);
  for (const auto& saves_most : {std::pair<std::string, std::string>{"model.recompute", "full"}, {"batch.micro", "1"}}) {
    if (!ways.empty()) break;
    const auto strongest =
        std::ranges::find_if(changes, [&](const Change& change) { return std::pair(change.key, change.value) == saves_most; });
    if (strongest != changes.end()) ways = ways_with(plan, changes, &*strongest, available_bytes);
  }
  return ways;
}

}  // namespace

void check_memory(const RunPlan& plan, double available_bytes, bool tries) {
  const MemoryNeeds needs = largest_needs(plan);
  if (fits(needs, available_bytes, tries ? kSureShare : 1.0)) return;
  const std::vector<std::string> ways = ways_out(plan, available_bytes);
  throw ConfigError(fmt::format(
      "a rank of this layout needs about {} GiB (parameters {}, gradients {}, optimizer {}, activations {}) and has {}; {}",
      in_gib(needs.total()), in_gib(needs.parameters), in_gib(needs.gradients + needs.copies), in_gib(needs.optimizer),
      in_gib(needs.activations), in_gib(available_bytes),
      ways.empty() ? "no change of batch.micro, model.recompute, parallel.sequence, parallel.tensor or parallel.pipeline "
                     "makes it fit, nor two of them: take a smaller model, or more or larger machines"
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
