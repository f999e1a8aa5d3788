#include "core/tape.h"

#include "core/ops/elementwise.h"
#include "core/trace.h"

namespace trireme {
namespace {

/// Runs `body`, a pass of `op` over `tensors`, which an error of the device names.
template <class F>
auto with_place(const Op& op, std::string_view pass, std::span<const Tensor> tensors, const F& body) {
  try {
    return body();
  } catch (const IoError& error) {
    std::string shapes;
    for (const Tensor& t : tensors)
      if (t.defined()) shapes += (shapes.empty() ? "" : ", ") + std::string(name_of(t.dtype())) + to_string(t.shape());
    throw IoError(std::string(op.name()) + " " + std::string(pass) + " of " + shapes + ": " + error.what());
  }
}

}  // namespace

Tensors apply(Context& ctx, std::shared_ptr<const Op> op, Tensors inputs) {
  Saved saved;
  const auto parameters = op->parameters();
  if (ctx.hooks && !parameters.empty()) ctx.hooks->before_use(parameters);
  Tensors outputs;
  const OpFlop flop = ctx.tracer && ctx.tracer->recording() ? op->flop(inputs) : OpFlop();
  {
    TraceScope scope(ctx.tracer, Tracer::Lane::compute, op->name(), flop.forward);
    outputs = with_place(*op, "forward", inputs, [&] { return op->forward(ctx, inputs, saved); });
  }
  if (ctx.hooks && !parameters.empty()) ctx.hooks->after_use(parameters);
  if (ctx.tape) ctx.tape->record(std::move(op), inputs, outputs, std::move(saved), flop);
  return outputs;
}

int Tape::new_id() {
  grads_.emplace_back();
  watched_.push_back(false);
  return static_cast<int>(grads_.size()) - 1;
}

Tensor Tape::watch(Tensor t) {
  t.set_tape_id(new_id());
  watched_[t.tape_id()] = true;
  return t;
}

void Tape::record(std::shared_ptr<const Op> op, std::span<const Tensor> inputs, Tensors& outputs, Saved saved,
                  OpFlop flop) {
  bool needed = !op->parameters().empty();
  for (const Tensor& t : inputs) needed = needed || (t.defined() && t.tape_id() >= 0);
  for (Tensor& t : outputs) t.set_tape_id(-1);  // an output may share an input's handle
  if (!needed) return;
  Node node;
  for (const Tensor& t : inputs) node.inputs.push_back(t.defined() ? t.tape_id() : -1);
  for (Tensor& t : outputs) {
    t.set_tape_id(new_id());
    node.outputs.push_back(t.tape_id());
  }
  for (Parameter* p : op->parameters()) ++pending_uses_[p];
  node.op = std::move(op);
  node.saved = std::move(saved);
  node.flop = flop;
  nodes_.push_back(std::move(node));
}

void Tape::accumulate(Context& ctx, int id, Tensor grad) {
  if (id < 0 || !grad.defined()) return;
  grad.set_tape_id(-1);
  Tensor& slot = grads_[id];
  if (!slot.defined()) {
    slot = std::move(grad);
  } else {
    TRIREME_ASSERT(slot.numel() == grad.numel(), "gradients of one value differ in size");
    Tensor sum = slot.unique() ? slot : grad.unique() ? grad : ctx.empty(slot.shape(), slot.dtype());
    ctx.kernel<AddKernel>()(ctx, slot, grad, sum);
    slot = std::move(sum);
  }
}

void Tape::seed(Context& ctx, std::span<const Tensor> roots, Tensors seeds) {
  const bool ones = seeds.empty();
  seeds.resize(roots.size());
  for (size_t i = 0; i < roots.size(); ++i) {
    if (!roots[i].defined() || roots[i].tape_id() < 0) continue;
    if (ones) {
      seeds[i] = ctx.empty(roots[i].shape(), roots[i].dtype());
      ctx.kernel<FillKernel>()(ctx, 1.0f, seeds[i]);
    }
    accumulate(ctx, roots[i].tape_id(), std::move(seeds[i]));  // an undefined seed is a zero gradient
  }
}

void Tape::run_input(Context& ctx, Node& node, Node* before) {
  Tensors dout;
  bool any = false, wanted = false;
  for (int id : node.outputs) {
    dout.push_back(grads_[id]);
    if (!watched_[id]) grads_[id] = Tensor();
    any = any || dout.back().defined();
  }
  for (int id : node.inputs) wanted = wanted || id >= 0;
  node.pending_weight = !node.op->parameters().empty();
  node.has_gradient = any;
  if (!any) {  // nothing depends on this node: its parameters get no gradient from it, but the use is over
    node.saved = {};
    return;
  }
  if (node.pending_weight && (!wanted || node.op->weights_need_gradients())) node.dout = dout;
  if (!wanted) return;
  TraceScope scope(ctx.tracer, Tracer::Lane::compute, node.op->name(), node.flop.backward_input);
  Tensors din = with_place(*node.op, "backward", node.saved.tensors,
                           [&] { return node.op->backward_input(ctx, node.saved, std::move(dout)); });
  TRIREME_ASSERT(din.size() == node.inputs.size(), std::string(node.op->name()) + ": one gradient an input");
  if (before && node.op->sends_input_gradient()) run_weight(ctx, *before);
  for (size_t i = 0; i < din.size(); ++i) accumulate(ctx, node.inputs[i], std::move(din[i]));
}

void Tape::run_weight(Context& ctx, Node& node) {
  if (node.pending_weight) {
    if (node.has_gradient) {
      TraceScope scope(ctx.tracer, Tracer::Lane::compute, node.op->name(), node.flop.backward_weight);
      with_place(*node.op, "backward (weights)", node.saved.tensors, [&] { node.op->backward_weight(ctx, node.saved, node.dout); });
    }
    node.pending_weight = false;
    for (Parameter* p : node.op->parameters())
      if (--pending_uses_[p] == 0 && ctx.gradients) ctx.gradients->grad_ready(*p);
  }
  node.saved = {};
  node.dout.clear();
  node.op.reset();
}

namespace {

Context without_tape(const Context& ctx) {
  Context inner = ctx;
  inner.tape = nullptr;
  return inner;
}

}  // namespace

/// B of a node, with the uses of its parameters around it.
void Tape::use_and_run_input(Context& ctx, Node& node, Node* before) {
  const auto op = node.op;
  const auto parameters = op->parameters();
  if (ctx.hooks && !parameters.empty()) ctx.hooks->before_use(parameters);
  run_input(ctx, node, before);
  if (ctx.hooks && !parameters.empty()) ctx.hooks->after_use(parameters);
}

void Tape::backward(Context& outer, std::span<const Tensor> roots, Tensors seeds) {
  Context ctx = without_tape(outer);
  seed(ctx, roots, std::move(seeds));
  Node* waiting = nullptr;  // its W is left, to run while the next node's exchange is under way
  for (auto node = nodes_.rbegin(); node != nodes_.rend(); ++node) {
    use_and_run_input(ctx, *node, waiting);
    if (waiting && waiting->op) run_weight(ctx, *waiting);  // that node had nothing to exchange
    waiting = nullptr;
    const auto next = std::next(node);
    if (next != nodes_.rend() && next->op->sends_input_gradient())
      waiting = &*node;
    else
      run_weight(ctx, *node);
  }
  nodes_.clear();
}

void Tape::backward_input(Context& outer, std::span<const Tensor> roots, Tensors seeds) {
  Context ctx = without_tape(outer);
  seed(ctx, roots, std::move(seeds));
  for (auto node = nodes_.rbegin(); node != nodes_.rend(); ++node) {
    use_and_run_input(ctx, *node, nullptr);
    if (node->op->parameters().empty()) node->saved = {};
  }
}

void Tape::backward_weight(Context& outer) {
  Context ctx = without_tape(outer);
  for (auto node = nodes_.rbegin(); node != nodes_.rend(); ++node) run_weight(ctx, *node);
  nodes_.clear();
}

Tensor Tape::take_grad(const Tensor& watched) {
  TRIREME_ASSERT(watched.tape_id() >= 0 && watched.tape_id() < static_cast<int>(grads_.size()) && watched_[watched.tape_id()],
                 "take_grad() of a tensor that was not watched");
  return std::move(grads_[watched.tape_id()]);
}

std::vector<Parameter*> Tape::parameters() const {
  std::vector<Parameter*> found;
  std::unordered_map<Parameter*, bool> seen;
  for (const Node& node : nodes_)
    for (Parameter* p : node.op->parameters())
      if (!std::exchange(seen[p], true)) found.push_back(p);
  return found;
}

void Tape::clear() {
  nodes_.clear();
  grads_.clear();
  watched_.clear();
  pending_uses_.clear();
}

}  // namespace trireme
