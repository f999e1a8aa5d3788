// The optimizers themselves; make_optimizer() chooses. Their formulas stand there (optim/optimizer.h).
#pragma once

#include "optim/flat_optimizer.h"

namespace trireme {

class Adamw : public FlatOptimizer {
 public:
  explicit Adamw(const OptimConfig& config, Rounding rounding = {})
      : FlatOptimizer(config, {"exp_avg", "exp_avg_sq"}, rounding) {}

 protected:
  void update(Context& ctx, FlatUpdate& shard, const Tensor& control, std::span<Tensor> slots) override;
};

class Sgd : public FlatOptimizer {
 public:
  explicit Sgd(const OptimConfig& config, Rounding rounding = {})
      : FlatOptimizer(config, config.momentum > 0.0 ? std::vector<std::string>{"momentum"} : std::vector<std::string>{},
                      rounding) {}

 protected:
  void update(Context& ctx, FlatUpdate& shard, const Tensor& control, std::span<Tensor> slots) override;
};

class Lion : public FlatOptimizer {
 public:
  explicit Lion(const OptimConfig& config, Rounding rounding = {}) : FlatOptimizer(config, {"exp_avg"}, rounding) {}

 protected:
  void update(Context& ctx, FlatUpdate& shard, const Tensor& control, std::span<Tensor> slots) override;
};

/// Looks at parameters as matrices, so a shard must hold each of its parameters whole.
class Adafactor : public Optimizer {
 public:
  explicit Adafactor(const OptimConfig& config) : config_(config) {}
  void attach(Context& ctx, std::span<const Shard> shards) override;
  void step(Context& ctx, std::span<Shard> shards, const Tensor& control) override;
  OptimizerState state() const override;

 private:
  struct ParameterState {
    Shard::Segment segment;
    Tensor row, col;  // col undefined: not factored
    Tensor runs;      // i64 [1, 3]
  };
  struct ShardState {
    Tensor master;
    std::vector<ParameterState> parameters;
  };
  ParameterState make_state(Context& ctx, const Shard::Segment& segment) const;

  const OptimConfig config_;
  std::vector<ShardState> shards_;
  Tensor applied_steps_;  // i64 [1]
  Tensor scratch_;        // enough for the largest parameter
};

}  // namespace trireme
