// Optimizer: updates the parameters of this rank's shards from their gradients. Whether a step is applied,
// and how its gradient is scaled, is read from a tensor on the device (optim/step_control.h): nothing waits
// for the host.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/nn/buckets.h"
#include "optim/optim_config.h"
#include "optim/step_control.h"
#include "optim/stochastic_rounding.h"

namespace trireme {

/// An optimizer's state by name, for checkpoints. Tensors are handles to the live state: write into them to
/// load.
struct OptimizerState {
  struct Flat {        // one value an element of a shard; the shard's segments say whose
    size_t shard;      // index into the shards attached
    std::string slot;  // "exp_avg", "exp_avg_sq", "momentum", "master"
    Tensor values;     // f32 [n], n the shard's elements; "master" may be u16 [n]: what the shard's bf16 data lacks
                       // (optim/split_master.h)
  };
  struct Whole {  // state of another shape than its parameter
    Parameter* parameter;
    std::string slot;  // "exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq"
    Tensor values;     // f32
  };
  struct Scalar {
    std::string name;  // "applied_steps"
    Tensor value;      // i64 [1] or f32 [n]
  };
  std::vector<Flat> flat;
  std::vector<Whole> whole;
  std::vector<Scalar> scalars;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// Allocates zeroed state for `shards`, and f32 master weights where their data is of a lower precision and not
  /// rounded at random, taken from what the data holds now. Called once, after the parameters have their values. ConfigError
  /// when this optimizer's state can't be split as the shards are.
  virtual void attach(Context& ctx, std::span<const Shard> shards) = 0;

  /// One update of the attached shards, from `grad` of every element. `control` is a control tensor; with
  /// `apply` 0 not a bit of weights or state changes. Every shard's segments and sizes are those attached.
  virtual void step(Context& ctx, std::span<Shard> shards, const Tensor& control) = 0;

  /// The state that a run continues from bit for bit.
  virtual OptimizerState state() const = 0;
};

/// The optimizer that `config.kind` names. ConfigError for an unknown kind or a setting out of its range.
/// The rules, with lr the step's learning rate and g the gradient times the control's multiplier; weight
/// decay is decoupled everywhere (p -= lr wd p, before the rest) and acts on the parameters for which
/// decays() is true:
///   adamw      m = b1 m + (1-b1) g ; v = b2 v + (1-b2) g^2 ; p -= lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) +
///   eps)
///              (Loshchilov & Hutter, "Decoupled weight decay regularization", 2019). t counts applied steps.
///   sgd        m = momentum m + g ; p -= lr m, or lr (g + momentum m) with nesterov (Sutskever et al., 2013)
///   lion       p -= lr sign(b1 m + (1-b1) g) ; m = b2 m + (1-b2) g (Chen et al., 2023)
///   adafactor  second moments factored into rows and columns (Shazeer & Stern, 2018), see AdafactorSettings
/// With `rounding` there are no master weights: the data, which must be bf16, is updated in f32 and rounded at random, in
/// the step's place of a sequence that counts applied steps. ConfigError for adafactor, which has no kernel for that.
std::unique_ptr<Optimizer> make_optimizer(const OptimConfig& config, std::optional<StochasticRounding> rounding = {});

/// Whether weight decay acts on `parameter`: Parameter::decay, unless its name contains one of
/// config.no_decay.
bool decays(const OptimConfig& config, const Parameter& parameter);

}  // namespace trireme
