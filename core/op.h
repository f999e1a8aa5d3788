// Op: a differentiable operation. Activations are its inputs; parameters are its fields, so that a use of a
// parameter is visible (ZeRO-3 gathers by it) and their gradients are a pass of their own (zero-bubble pipelines).
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/context.h"
#include "core/parameter.h"

namespace trireme {

using Tensors = std::vector<Tensor>;

/// What forward keeps for backward. backward_input may replace or add to it what backward_weight needs.
struct Saved {
  Tensors tensors;
  std::shared_ptr<void> state;  // of operations that keep more than tensors
};

/// Floating-point operations of the passes.
struct OpFlop {
  double forward = 0.0, backward_input = 0.0, backward_weight = 0.0;
};

class Op {
 public:
  virtual ~Op() = default;
  virtual std::string_view name() const = 0;
  virtual std::span<Parameter* const> parameters() const { return {}; }
  /// What the products of each pass take on these inputs, in training: for profiles. Nothing where there are none.
  virtual OpFlop flop(std::span<const Tensor>) const { return {}; }

  /// Returns the outputs; puts into `saved` what backward needs.
  virtual Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const = 0;

  /// "B": the gradients of the inputs from those of the outputs. An undefined element of `dout` is a zero
  /// gradient; an undefined result too. Elements of `dout` may be reused in place when unique(), and results may
  /// share storage with one another.
  virtual Tensors backward_input(Context& ctx, Saved& saved, Tensors dout) const = 0;

  /// Whether backward_input() sends something off that the operation before it, in the order of forward, waits for. The tape
  /// then runs the W of what it did before in between.
  virtual bool sends_input_gradient() const { return false; }

  /// Whether backward_weight() reads `dout` although backward_input() has run. If not, the tape does not keep it, and
  /// backward_input() may have it to itself.
  virtual bool weights_need_gradients() const { return true; }

  /// "W": adds to the gradients of parameters() (see Parameter::begin_accumulate). Runs after backward_input,
  /// perhaps much later, with the same `dout` (see weights_need_gradients()).
  virtual void backward_weight(Context& ctx, Saved& saved, std::span<const Tensor> dout) const {
    static_cast<void>(ctx), static_cast<void>(saved), static_cast<void>(dout);
  }
};

/// Told of each use of parameters, in both passes and outside of training: what ZeRO-3 gathers and frees by. Uses
/// nest: a recomputed segment is a use around those of its operations.
class ParameterHooks {
 public:
  virtual ~ParameterHooks() = default;
  virtual void before_use(std::span<Parameter* const>) {}  // data must be there
  virtual void after_use(std::span<Parameter* const>) {}   // this use needs the data no more
};

/// Told when a gradient is whole. Set for the last micro-batch of a step alone: it sends buckets off.
class GradientSink {
 public:
  virtual ~GradientSink() = default;
  virtual void grad_ready(Parameter&) = 0;  // the tape's last backward_weight of it is done
};

/// Runs `op` on `inputs`; records it when ctx.tape is set.
Tensors apply(Context& ctx, std::shared_ptr<const Op> op, Tensors inputs);

}  // namespace trireme
