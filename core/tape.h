// Tape: the flat list of operations that forward recorded; backward is one loop over it in reverse. The input
// pass (B) and the weight pass (W) can run apart. What a node saved is freed as soon as its last pass is done.
#pragma once

#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/op.h"

namespace trireme {

/// A part of a model: its outputs from its inputs.
using Segment = std::function<Tensors(Context&, std::span<const Tensor>)>;
/// Runs `segment` as one operation whose inner activations are not kept but computed again in backward.
Tensors recompute(Context& ctx, std::string_view name, Segment segment, Tensors inputs);

class Tape {
 public:
  /// Marks `t` as an input whose gradient will be asked for (a received activation, a test's input).
  Tensor watch(Tensor t);

  /// B and W of every node, newest first. `seeds` are the gradients of `roots` (undefined: zero);
  /// without seeds they are ones.
  void backward(Context& ctx, std::span<const Tensor> roots, Tensors seeds = {});
  void backward(Context& ctx, const Tensor& root) { backward(ctx, std::span(&root, 1)); }
  /// B alone; what W needs is kept until backward_weight().
  void backward_input(Context& ctx, std::span<const Tensor> roots, Tensors seeds = {});
  /// The W that backward_input() left, in the same order.
  void backward_weight(Context& ctx);

  /// The gradient of a watched tensor after the backward pass; undefined when nothing depended on it.
  Tensor take_grad(const Tensor& watched);

  bool empty() const { return nodes_.empty(); }
  size_t num_nodes() const { return nodes_.size(); }
  std::vector<Parameter*> parameters() const;  // those used by the recorded nodes, in order of first use
  void clear();

 private:
  friend Tensors apply(Context&, std::shared_ptr<const Op>, Tensors);
  friend Tensors recompute(Context&, std::string_view, Segment, Tensors);
  struct Node {
    std::shared_ptr<const Op> op;
    std::vector<int> inputs;   // tape ids, -1 for constants
    std::vector<int> outputs;
    Saved saved;
    OpFlop flop;
    Tensors dout;  // kept between B and W
    bool pending_weight = false;
    bool has_gradient = false;  // something depends on it
  };
  int new_id();
  void record(std::shared_ptr<const Op> op, std::span<const Tensor> inputs, Tensors& outputs, Saved saved,
              OpFlop flop = {});
  void seed(Context& ctx, std::span<const Tensor> roots, Tensors seeds);
  void use_and_run_input(Context& ctx, Node& node, Node* before);
  void run_input(Context& ctx, Node& node, Node* before);
  void run_weight(Context& ctx, Node& node);
  void accumulate(Context& ctx, int id, Tensor grad);

  std::vector<Node> nodes_;
  std::vector<Tensor> grads_;      // by tape id
  std::vector<bool> watched_;      // by tape id
  std::unordered_map<Parameter*, int> pending_uses_;
};

}  // namespace trireme
