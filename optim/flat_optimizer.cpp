#include "optim/flat_optimizer.h"

#include <fmt/format.h>

#include "core/ops/elementwise.h"

namespace trireme {

Tensor make_decay_runs(Context& ctx, const OptimConfig& config, const Shard& shard) {
  std::vector<int64_t> table;  // DecayRuns
  for (const Shard::Segment& segment : shard.segments) {
    const int64_t decays_here = decays(config, *segment.parameter) ? 1 : 0;
    if (!table.empty() && table.back() == decays_here) {
      table[table.size() - 2] = segment.end;  // the padding between holds zeros, which every rule leaves zero
    } else {
      table.insert(table.end(), {segment.begin, segment.end, decays_here});
    }
  }
  const auto num_runs = static_cast<int64_t>(table.size()) / DecayRun::kSize;
  const Tensor runs = ctx.from_host<int64_t>(table, {num_runs, DecayRun::kSize}, MemoryClass::optimizer);
  ctx.stream->synchronize();  // `table` ends here
  return runs;
}

Tensor make_master(Context& ctx, const Tensor& data) {
  if (data.dtype() == DType::f32) return {};
  Tensor master = ctx.empty(data.shape(), DType::f32, MemoryClass::optimizer);
  ctx.kernel<CastKernel>()(ctx, data, master);
  return master;
}

FlatOptimizer::FlatOptimizer(const OptimConfig& config, std::vector<std::string> slots)
    : config_(config), slot_names_(std::move(slots)) {}

void FlatOptimizer::attach(Context& ctx, std::span<const Shard> shards) {
  TRIREME_ASSERT(shards_.empty(), "attach() a second time");
  applied_steps_ = ctx.zeros({1}, DType::i64, MemoryClass::optimizer);
  for (const Shard& shard : shards) {
    ShardState state;
    state.master = make_master(ctx, shard.data);
    state.runs = make_decay_runs(ctx, config_, shard);
    for (size_t i = 0; i < slot_names_.size(); ++i)
      state.slots.push_back(ctx.zeros(shard.data.shape(), DType::f32, MemoryClass::optimizer));
    shards_.push_back(std::move(state));
  }
}

void FlatOptimizer::step(Context& ctx, std::span<Shard> shards, const Tensor& control) {
  TRIREME_ASSERT(shards.size() == shards_.size(),
                 fmt::format("step() of {} shards, {} were attached", shards.size(), shards_.size()));
  ctx.kernel<CountStepKernel>()(ctx, control, applied_steps_);
  for (size_t i = 0; i < shards.size(); ++i) {
    const Shard& shard = shards[i];
    ShardState& state = shards_[i];
    const bool is_f32 = !state.master.defined();
    FlatUpdate flat{is_f32 ? shard.data : state.master, is_f32 ? Tensor() : shard.data, shard.grad,
                    state.runs, config_.weight_decay};
    TRIREME_ASSERT(shard.grad.numel() == flat.weights.numel() &&
                       (is_f32 == (shard.data.dtype() == DType::f32)) &&
                       (state.slots.empty() || state.slots[0].numel() == shard.grad.numel()),
                   fmt::format("shard {} is not the one attached", i));
    update(ctx, flat, control, state.slots);
  }
}

OptimizerState FlatOptimizer::state() const {
  OptimizerState state;
  for (size_t i = 0; i < shards_.size(); ++i) {
    for (size_t slot = 0; slot < slot_names_.size(); ++slot)
      state.flat.push_back({i, slot_names_[slot], shards_[i].slots[slot]});
    if (shards_[i].master.defined()) state.flat.push_back({i, "master", shards_[i].master});
  }
  state.scalars.push_back({"applied_steps", applied_steps_});
  return state;
}

}  // namespace trireme
