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
  /// `slots` names the f32 arrays that the rule keeps.
  FlatOptimizer(const OptimConfig& config, std::vector<std::string> slots);

  /// Runs the rule's kernel over one shard; `slots` are in the order of their names.
  virtual void update(Context& ctx, FlatUpdate& shard, const Tensor& control, std::span<Tensor> slots) = 0;

  const OptimConfig config_;
  Tensor applied_steps_;  // i64 [1]

 private:
  struct ShardState {
    Tensor master;  // f32 [n]; undefined when the data is f32
    Tensor runs;    // i64 [R, 3]
    std::vector<Tensor> slots;
  };
  std::vector<std::string> slot_names_;
  std::vector<ShardState> shards_;
};

/// The runs of a shard with and without weight decay, as a table on the device.
Tensor make_decay_runs(Context& ctx, const OptimConfig& config, const Shard& shard);

/// An f32 copy of `data` in optimizer memory; undefined when `data` is f32 itself.
Tensor make_master(Context& ctx, const Tensor& data);

}  // namespace trireme
