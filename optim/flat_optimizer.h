// FlatOptimizer: what all element-wise optimizers share. Their state is arrays as long as a shard, so they
// work on any part of a parameter (ZeRO) and never look at shapes. A new one says its slots and calls its
// kernel.
#pragma once

#include "optim/kernels.h"
#include "optim/optimizer.h"

namespace trireme {

class FlatOptimizer : public Optimizer {
 public:
  void attach(Context& ctx, std::span<const Shard> shards) final;
  void step(Context& ctx, std::span<Shard> shards, const Tensor& control) final;
  OptimizerState state() const final;

 protected:
  using Rounding = std::optional<StochasticRounding>;

  /// `slots` names the f32 arrays that the rule keeps.
  FlatOptimizer(const OptimConfig& config, std::vector<std::string> slots, Rounding rounding);

  /// Runs the rule's kernel over one shard; `slots` are in the order of their names.
  virtual void update(Context& ctx, FlatUpdate& shard, const Tensor& control, std::span<Tensor> slots) = 0;

  const OptimConfig config_;
  Tensor applied_steps_;  // i64 [1]

 private:
  struct ShardState {
    Tensor master;  // f32 [n], of f16 data
    Tensor rest;    // u16 [n], with bf16 data the masters (optim/split_master.h); undefined when that is rounded at random
    Tensor runs;    // i64 [R, 3]
    Tensor places;  // i64 [R, 5]; undefined when nothing is rounded at random
    std::vector<Tensor> slots;
  };
  FlatUpdate flat_update(const Shard& shard, const ShardState& state) const;

  Rounding rounding_;
  std::vector<std::string> slot_names_;
  std::vector<ShardState> shards_;
};

/// The runs of a shard with and without weight decay, as a table on the device.
Tensor make_decay_runs(Context& ctx, const OptimConfig& config, const Shard& shard);

/// Runs as above, but one for each piece of a parameter that placed_runs() names, and their RunPlaces.
std::pair<Tensor, Tensor> make_placed_runs(Context& ctx, const OptimConfig& config, const Shard& shard, uint64_t seed);

/// An f32 copy of `data` in optimizer memory; undefined when `data` is f32 itself.
Tensor make_master(Context& ctx, const Tensor& data);

}  // namespace trireme
