// Adafactor's host side: which parameters are factored, and their state.
#include <fmt/format.h>

#include <algorithm>

#include "optim/optimizers.h"

namespace trireme {
namespace {

// [A, R, C]: the last two dims are factored, those before are a batch of matrices. One dim: [1, 1, C].
Shape matrices_of(const Shape& shape) {
  const int64_t columns = shape.rank() >= 1 ? shape[-1] : 1;
  const int64_t rows = shape.rank() >= 2 ? shape[-2] : 1;
  return {columns * rows == 0 ? 0 : shape.numel() / (rows * columns), rows, columns};
}

void check_whole(const Shard::Segment& segment) {
  const Parameter& p = *segment.parameter;
  const int64_t held = segment.end - segment.begin;
  if (held != p.shape.numel())
    throw ConfigError(
        fmt::format("optim.kind: adafactor keeps a state by rows and columns and needs whole parameters, but "
                    "this rank updates elements {} to {} of the {} of {}; use adamw, sgd or lion, or a reducer "
                    "whose shards are whole buckets, as those of sync.mode: all_reduce are",
                    segment.parameter_begin, segment.parameter_begin + held, p.shape.numel(), p.name));
  if (p.placement.is_split())
    throw ConfigError(
        fmt::format("optim.kind: adafactor needs whole parameters, but this rank holds {} of {}; use adamw, sgd or lion, or "
                    "set parallel.tensor to 1",
                    to_string(p.shape), p.name + to_string(p.global_shape())));
}

}  // namespace

Adafactor::ParameterState Adafactor::make_state(Context& ctx, const Shard::Segment& segment) const {
  const Shape shape_ARC = matrices_of(segment.parameter->shape);
  ParameterState state{.segment = segment, .row = {}, .col = {}, .runs = {}};
  if (segment.parameter->shape.rank() >= 2) {
    state.row = ctx.zeros({shape_ARC[0], shape_ARC[1]}, DType::f32, MemoryClass::optimizer);
    state.col = ctx.zeros({shape_ARC[0], shape_ARC[2]}, DType::f32, MemoryClass::optimizer);
  } else {
    state.row = ctx.zeros({shape_ARC[0], shape_ARC[2]}, DType::f32, MemoryClass::optimizer);
  }
  const std::array<int64_t, 3> run{0, shape_ARC.numel(), decays(config_, *segment.parameter) ? 1 : 0};
  state.runs = ctx.from_host<int64_t>(run, {1, DecayRun::kSize}, MemoryClass::optimizer);
  ctx.stream->synchronize();  // `run` ends here
  return state;
}

void Adafactor::attach(Context& ctx, std::span<const Shard> shards) {
  TRIREME_ASSERT(shards_.empty(), "attach() a second time");
  int64_t scratch_numel = 1;
  for (const Shard& shard : shards)
    for (const Shard::Segment& segment : shard.segments) check_whole(segment);
  for (const Shard& shard : shards) {
    ShardState state{.master = make_master(ctx, shard.data), .parameters = {}};
    for (const Shard::Segment& segment : shard.segments) {
      state.parameters.push_back(make_state(ctx, segment));
      scratch_numel = std::max(scratch_numel, adafactor_scratch_numel(matrices_of(segment.parameter->shape)));
    }
    shards_.push_back(std::move(state));
  }
  applied_steps_ = ctx.zeros({1}, DType::i64, MemoryClass::optimizer);
  scratch_ = ctx.empty({scratch_numel}, DType::f32, MemoryClass::optimizer);
}

void Adafactor::step(Context& ctx, std::span<Shard> shards, const Tensor& control) {
  TRIREME_ASSERT(shards.size() == shards_.size(),
                 fmt::format("step() of {} shards, {} were attached", shards.size(), shards_.size()));
  ctx.kernel<CountStepKernel>()(ctx, control, applied_steps_);
  for (size_t i = 0; i < shards.size(); ++i) {
    const bool is_f32 = !shards_[i].master.defined();
    TRIREME_ASSERT(is_f32 == (shards[i].data.dtype() == DType::f32),
                   fmt::format("shard {} is not the one attached", i));
    for (ParameterState& p : shards_[i].parameters) {
      const Shape shape_ARC = matrices_of(p.segment.parameter->shape);
      const auto part = [&](const Tensor& all) { return all.flat_view(p.segment.begin, shape_ARC); };
      FlatUpdate flat{part(is_f32 ? shards[i].data : shards_[i].master),
                      is_f32 ? Tensor() : part(shards[i].data), part(shards[i].grad), p.runs,
                      config_.weight_decay};
      ctx.kernel<AdafactorKernel>()(ctx, {}, flat, control, applied_steps_, p.row, p.col, scratch_);
    }
  }
}

OptimizerState Adafactor::state() const {
  OptimizerState state;
  for (size_t i = 0; i < shards_.size(); ++i) {
    for (const ParameterState& p : shards_[i].parameters) {
      const bool factored = p.col.defined();
      state.whole.push_back({p.segment.parameter, factored ? "exp_avg_sq_row" : "exp_avg_sq", p.row});
      if (factored) state.whole.push_back({p.segment.parameter, "exp_avg_sq_col", p.col});
    }
    if (shards_[i].master.defined()) state.flat.push_back({i, "master", shards_[i].master});
  }
  state.scalars.push_back({"applied_steps", applied_steps_});
  return state;
}

}  // namespace trireme
