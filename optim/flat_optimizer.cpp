#include "optim/flat_optimizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

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

std::pair<Tensor, Tensor> make_placed_runs(Context& ctx, const OptimConfig& config, const Shard& shard, uint64_t seed) {
  std::vector<int64_t> runs, places;  // DecayRun, RunPlace
  for (const Shard::Segment& segment : shard.segments) {
    const Parameter& parameter = *segment.parameter;
    const int64_t decays_here = decays(config, parameter) ? 1 : 0;
    const RandomStream stream = make_stream(seed, hash_name("rounding of " + parameter.name));
    const int64_t shift = segment.begin - segment.parameter_begin;  // from the parameter's elements to the shard's
    for (const PlacedRun& run : placed_runs(parameter)) {
      TRIREME_ASSERT(run.count == 1 || run.local_stride == run.length, parameter.name + ": several ranges of an inner dim");
      const int64_t origin = run.local + shift;
      const int64_t begin = std::max(segment.begin, origin), end = std::min(segment.end, origin + run.count * run.length);
      if (begin >= end) continue;
      runs.insert(runs.end(), {begin, end, decays_here});
      places.insert(places.end(), {static_cast<int64_t>(stream.key), origin, run.length, run.global, run.global_stride});
    }
  }
  const auto n = static_cast<int64_t>(runs.size()) / DecayRun::kSize;
  std::pair tables{ctx.from_host<int64_t>(runs, {n, DecayRun::kSize}, MemoryClass::optimizer),
                   ctx.from_host<int64_t>(places, {n, RunPlace::kSize}, MemoryClass::optimizer)};
  ctx.stream->synchronize();  // `runs` and `places` end here
  return tables;
}

Tensor make_master(Context& ctx, const Tensor& data) {
  if (data.dtype() == DType::f32) return {};
  Tensor master = ctx.empty(data.shape(), DType::f32, MemoryClass::optimizer);
  ctx.kernel<CastKernel>()(ctx, data, master);
  return master;
}

FlatOptimizer::FlatOptimizer(const OptimConfig& config, std::vector<std::string> slots, Rounding rounding)
    : config_(config), rounding_(rounding), slot_names_(std::move(slots)) {}

void FlatOptimizer::attach(Context& ctx, std::span<const Shard> shards) {
  TRIREME_ASSERT(shards_.empty(), "attach() a second time");
  applied_steps_ = ctx.zeros({1}, DType::i64, MemoryClass::optimizer);
  for (const Shard& shard : shards) {
    ShardState state;
    if (rounding_) {
      TRIREME_ASSERT(shard.data.dtype() == DType::bf16, "only bf16 is rounded at random");
      std::tie(state.runs, state.places) = make_placed_runs(ctx, config_, shard, rounding_->seed);
    } else {
      if (shard.data.dtype() == DType::bf16)
        state.rest = ctx.zeros(shard.data.shape(), DType::u16, MemoryClass::optimizer);
      else
        state.master = make_master(ctx, shard.data);
      state.runs = make_decay_runs(ctx, config_, shard);
    }
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
    ShardState& state = shards_[i];
    FlatUpdate flat = flat_update(shards[i], state);
    TRIREME_ASSERT(flat.grad.numel() == flat.weights.numel() &&
                       flat.weights.dtype() == (rounding_ || flat.rest.defined() ? DType::bf16 : DType::f32) &&
                       (state.slots.empty() || state.slots[0].numel() == flat.grad.numel()),
                   fmt::format("shard {} is not the one attached", i));
    update(ctx, flat, control, state.slots);
  }
}

FlatUpdate FlatOptimizer::flat_update(const Shard& shard, const ShardState& state) const {
  const bool master = state.master.defined();
  return {.weights = master ? state.master : shard.data,
          .rounded = master ? shard.data : Tensor(),
          .grad = shard.grad,
          .runs = state.runs,
          .weight_decay = config_.weight_decay,
          .places = state.places,
          .applied_steps = rounding_ ? applied_steps_ : Tensor(),
          .rest = state.rest};
}

OptimizerState FlatOptimizer::state() const {
  OptimizerState state;
  for (size_t i = 0; i < shards_.size(); ++i) {
    for (size_t slot = 0; slot < slot_names_.size(); ++slot)
      state.flat.push_back({i, slot_names_[slot], shards_[i].slots[slot]});
    for (const Tensor& master : {shards_[i].master, shards_[i].rest})
      if (master.defined()) state.flat.push_back({i, "master", master});
  }
  state.scalars.push_back({"applied_steps", applied_steps_});
  return state;
}

}  // namespace trireme
