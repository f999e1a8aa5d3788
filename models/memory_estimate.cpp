#include "models/memory_estimate.h"

#include <algorithm>

namespace trireme {
namespace {

/// Numbers, not bytes, on one rank of each kind of unit.
struct UnitSizes {
  double parameters = 0.0;
  double saved = 0.0;    // activations of one micro-batch that backward needs
  double working = 0.0;  // more of them while the unit runs
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
  const double gradients = 2 * rows * hidden;
  sizes.working = m.recompute == "full" ? between + inside + gradients : gradients;
  return sizes;
}

UnitSizes unit_sizes(const ModelConfig& m, int64_t unit, int64_t tensor, double rows, double rows_between) {
  const auto c = static_cast<double>(m.width);
  const double table = divided(m.vocab, tensor) * c;
  if (unit == 0) return {table + static_cast<double>(m.context) * c, rows, 0.0};
  if (unit <= m.layers) return block_sizes(m, tensor, rows, rows_between);
  return {table + 2 * c, 2 * c * rows + c * rows_between, 0.0};
}

}  // namespace

std::vector<int64_t> peak_in_flight(const Schedule& schedule) {
  std::vector<int64_t> now(schedule.rank_of_stage.size()), peak(schedule.rank_of_stage.size());
  for (const auto& actions : schedule.ranks)
    for (const Action& a : actions) {
      if (a.kind == ActionKind::forward) peak[a.stage] = std::max(peak[a.stage], ++now[a.stage]);
      if (a.kind == ActionKind::backward || a.kind == ActionKind::backward_weight) --now[a.stage];
    }
  return peak;
}

MemoryNeeds estimate_memory(const ModelConfig& m, const ParallelPlan& plan, bool sequence_parallel,
                            const BatchSizes& batch, const MemorySettings& settings, int64_t pipeline_rank) {
  const int64_t tensor = plan.mesh.size(Axis::tensor);
  const double rows =
      static_cast<double>(batch.micro * batch.sequence) / static_cast<double>(plan.mesh.size(Axis::context));
  const double rows_between = sequence_parallel ? rows / static_cast<double>(tensor) : rows;
  const std::vector<int64_t> in_flight = peak_in_flight(plan.schedule);
  double parameters = 0.0, saved = 0.0, working = 0.0;
  bool has_table = false;
  for (int64_t stage = 0; stage < plan.num_stages(); ++stage) {
    if (plan.rank_of(stage) != pipeline_rank) continue;
    const UnitRange units = plan.units_of(stage);
    for (int64_t unit = units.begin; unit < units.end; ++unit) {
      const UnitSizes sizes = unit_sizes(m, unit, tensor, rows, rows_between);
      const bool table = unit == 0 || unit > m.layers;
      parameters += sizes.parameters;
      if (table && m.tied && has_table) parameters -= divided(m.vocab, tensor) * static_cast<double>(m.width);
      has_table = has_table || table;
      saved += sizes.saved * static_cast<double>(in_flight[static_cast<size_t>(stage)]);
      working = std::max(working, sizes.working);
    }
  }
  const auto bytes = static_cast<double>(settings.compute_bytes);
  return {parameters * bytes, parameters * 4, parameters * 4 * static_cast<double>(settings.optimizer_values),
          (saved + working) * bytes};
}

}  // namespace trireme
