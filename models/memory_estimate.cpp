#include "models/memory_estimate.h"

#include <algorithm>
#include <span>
#include <vector>

#include "parallel/context_cache.h"

namespace trireme {
namespace {

/// Numbers, not bytes, on one rank of each kind of unit.
struct UnitSizes {
  double parameters = 0.0;
  double saved = 0.0;    // activations of one micro-batch that backward needs
  double forward = 0.0, backward = 0.0;  // more of them while the unit runs
  double replayed = 0.0;  // more of them between the halves of a backward, which made them again
};

double divided(int64_t n, int64_t parts) {
  return static_cast<double>((n + parts - 1) / parts);
}

UnitSizes block_sizes(const ModelConfig& m, int64_t tensor, double rows, double rows_between) {
  const auto c = static_cast<double>(m.width);
  const auto head_dim = static_cast<double>(m.width / m.heads);
  const double heads = divided(m.heads, tensor), kv_heads = divided(m.kv_heads, tensor),
               hidden = divided(m.ffn, tensor);
  const double qkv = (heads + 2 * kv_heads) * head_dim;
  UnitSizes sizes;
  sizes.parameters = c * qkv + c * heads * head_dim + 2 * c * hidden + qkv + hidden + 6 * c;
  // The residual stream before each norm, norms' results (whole where products take them), q k v and
  // attention's result, and the MLP's hidden array before and after gelu.
  const double between = 2 * c * rows_between + 2 * c * rows;
  const double inside = rows * (qkv + heads * head_dim + hidden * (m.recompute == "selective" ? 1 : 2));
  const double input = 2 * c * rows_between;
  sizes.saved = m.recompute == "full" ? input : between + inside;
  const double gradients = rows * hidden + 2 * c * rows;
  // What only the input half needs is gone by then: gelu's argument, and the residual streams.
  if (m.recompute == "full") sizes.replayed = between - c * rows_between + inside - rows * hidden;
  sizes.forward = m.recompute == "full" ? between + inside : 0.0;
  sizes.backward = sizes.forward + gradients;
  return sizes;
}

UnitSizes unit_sizes(const ModelConfig& m, int64_t unit, int64_t tensor, double rows, double rows_between) {
  const auto c = static_cast<double>(m.width);
  const double table = divided(m.vocab, tensor) * c;
  if (unit == 0) return {table + static_cast<double>(m.context) * c, rows};
  if (unit <= m.layers) return block_sizes(m, tensor, rows, rows_between);
  return {table + 2 * c, 2 * c * rows + c * rows_between};
}

/// The most that is held at a time while a rank runs its actions, with what the running stage needs on top.
double peak_activations(std::span<const Action> actions, std::span<const UnitSizes> of_stage) {
  double held = 0.0, peak = 0.0;
  for (const Action& a : actions) {
    const UnitSizes& stage = of_stage[a.stage];
    if (a.is_forward()) held += stage.saved;
    peak = std::max(peak, held + (a.is_forward() ? stage.forward : stage.backward));
    if (a.kind == ActionKind::backward_input) held += stage.replayed;
    if (a.makes_weight_gradient()) held -= stage.saved;
    if (a.kind == ActionKind::backward_weight) held -= stage.replayed;
  }
  return peak;
}

/// Of a pipeline rank; a table that two of its stages share counts once.
double count_parameters(const ModelConfig& m, const ParallelPlan& plan, int64_t pipeline_rank) {
  const int64_t tensor = plan.mesh.size(Axis::tensor);
  double parameters = 0.0;
  bool has_table = false;
  for (int64_t stage = 0; stage < plan.num_stages(); ++stage) {
    if (plan.rank_of(stage) != pipeline_rank) continue;
    const UnitRange units = plan.units_of(stage);
    for (int64_t unit = units.begin; unit < units.end; ++unit) {
      const bool table = unit == 0 || unit > m.layers;
      parameters += unit_sizes(m, unit, tensor, 0.0, 0.0).parameters;
      if (table && m.tied && has_table) parameters -= divided(m.vocab, tensor) * static_cast<double>(m.width);
      has_table = has_table || table;
    }
  }
  return parameters;
}

}  // namespace

MemoryNeeds estimate_memory(const ModelConfig& m, const ParallelPlan& plan, bool sequence_parallel,
                            const BatchSizes& batch, const MemorySettings& settings, int64_t pipeline_rank) {
  const int64_t tensor = plan.mesh.size(Axis::tensor);
  const double rows =
      static_cast<double>(batch.micro * batch.sequence) / static_cast<double>(plan.mesh.size(Axis::context));
  const double rows_between = sequence_parallel ? rows / static_cast<double>(tensor) : rows;
  const auto& actions = plan.schedule.ranks[static_cast<size_t>(pipeline_rank)];
  std::vector<UnitSizes> of_stage(static_cast<size_t>(plan.num_stages()));
  for (int64_t stage = 0; stage < plan.num_stages(); ++stage) {
    if (plan.rank_of(stage) != pipeline_rank) continue;
    UnitSizes& sum = of_stage[static_cast<size_t>(stage)];
    const UnitRange units = plan.units_of(stage);
    for (int64_t unit = units.begin; unit < units.end; ++unit) {
      const UnitSizes sizes = unit_sizes(m, unit, tensor, rows, rows_between);
      sum.saved += sizes.saved;
      sum.replayed += sizes.replayed;
      sum.forward = std::max(sum.forward, sizes.forward);
      sum.backward = std::max(sum.backward, sizes.backward);
    }
  }
  const double parameters = count_parameters(m, plan, pipeline_rank);
  const auto bytes = static_cast<double>(settings.compute_bytes);
  return {parameters * bytes, parameters * 4, parameters * static_cast<double>(settings.optimizer_bytes),
          peak_activations(actions, of_stage) * bytes, parameters * static_cast<double>(settings.reduce_bytes)};
}

double estimate_inference_memory(const ModelConfig& m, const ParallelPlan& plan, bool generates, int64_t pipeline_rank) {
  double numbers = count_parameters(m, plan, pipeline_rank);
  if (generates) {
    const double width = divided(m.kv_heads, plan.mesh.size(Axis::tensor)) * static_cast<double>(m.width / m.heads);
    const int64_t ranks = plan.mesh.size(Axis::context);
    const auto tokens = static_cast<double>(ranks == 1 ? m.context : context_capacity(m.context, ranks));
    for (int64_t stage = 0; stage < plan.num_stages(); ++stage) {
      if (plan.rank_of(stage) != pipeline_rank) continue;
      const UnitRange units = plan.units_of(stage);
      const int64_t blocks = std::min(units.end, m.layers + 1) - std::max<int64_t>(units.begin, 1);
      numbers += 2 * width * tokens * static_cast<double>(blocks);
    }
  }
  return 4 * numbers;
}

}  // namespace trireme
