#include "parallel/pipeline_executor.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/trace.h"
#include "parallel/schedule/own_actions.h"

namespace trireme {
PipelineExecutor::PipelineExecutor(Schedule schedule, Group& pipeline)
    : schedule_(std::move(schedule)), rank_(pipeline.rank()) {
  TRIREME_ASSERT(schedule_.ranks.size() == static_cast<size_t>(pipeline.size()),
                 "a schedule for another number of ranks");
  if (pipeline.size() > 1) group_ = pipeline.duplicate("activations");
  for (const int stage : schedule_.stages_of(rank_)) stages_.push_back(stage);
  plan_channels();
  const std::vector<Action>& mine = schedule_.ranks[static_cast<size_t>(rank_)];
  completes_gradients_.resize(mine.size());
  std::map<int64_t, size_t> last;
  for (size_t i = 0; i < mine.size(); ++i)
    if (mine[i].makes_weight_gradient()) last[mine[i].stage] = i;
  for (const auto& [stage, i] : last) completes_gradients_[i] = true;
}

void PipelineExecutor::plan_channels() {
  for (int64_t stage = 0; stage + 1 < num_stages(); ++stage) {
    plan_channel(stage, stage + 1, Direction::forward);
    plan_channel(stage + 1, stage, Direction::backward);
  }
}

void PipelineExecutor::plan_channel(int64_t maker, int64_t taker, Direction direction) {
  if (!has_stage(maker) && !has_stage(taker)) return;
  Channel c;
  c.peer = has_stage(maker) ? rank_of(taker) : rank_of(maker);
  c.tag = static_cast<int>(2 * maker) + (direction == Direction::backward ? 1 : 0);
  c.order = schedule_.channel_order(static_cast<int>(maker), direction);
  if (!has_stage(maker)) c.own_before = own_actions_before(schedule_, rank_, static_cast<int>(maker), direction);
  c.peer_actions.resize(static_cast<size_t>(schedule_.micro_batches));
  const std::vector<Action>& theirs = schedule_.ranks[static_cast<size_t>(c.peer)];
  for (size_t i = 0; i < theirs.size(); ++i) {
    const Action& a = theirs[i];
    const bool is_of_channel = direction == Direction::forward ? a.is_forward() : a.makes_input_gradient();
    if (is_of_channel && a.stage == (has_stage(maker) ? taker : maker)) c.peer_actions[a.micro_batch] = i;
  }
  channels_.emplace(std::pair(maker, direction), std::move(c));
}

void PipelineExecutor::post_receive(Channel& c, const Step& step) {
  const int64_t micro_batch = c.order[c.posted++];
  const Tensor buffer = step.ctx.empty(step.shape, step.dtype);
  Work work =
      group_->recv(buffer, c.peer, c.tag, fmt::format("micro-batch {}", micro_batch), step.ctx.stream);
  c.arriving.emplace(micro_batch, std::pair(buffer, std::move(work)));
}

/// The next message of each channel, which arrives while others are worked on, as soon as it doesn't wait for
/// this rank itself.
void PipelineExecutor::post_receives(const Step& step) {
  for (auto& [key, c] : channels_)
    if (c.posted < c.own_before.size() && c.arriving.empty() && c.own_before[c.posted] <= done_)
      post_receive(c, step);
}

/// What the channel brings of a micro-batch.
Tensor PipelineExecutor::take(Channel& c, int64_t micro_batch, const Step& step) {
  const bool is_message = c.peer != rank_;
  if (is_message && !step.exchanges) return step.ctx.zeros(step.shape, step.dtype);
  while (is_message && !c.arriving.contains(micro_batch)) {
    TRIREME_ASSERT(c.posted < c.order.size(), "a micro-batch that nobody sends");
    post_receive(c, step);
  }
  const auto found = c.arriving.find(micro_batch);
  TRIREME_ASSERT(found != c.arriving.end(), "a micro-batch that is not there yet");
  auto [value, work] = std::move(found->second);
  c.arriving.erase(found);
  if (is_message) post_receives(step);
  work.wait(*step.ctx.stream);
  if (is_message) release_sends(c.peer, c.peer_actions[static_cast<size_t>(micro_batch)]);
  return value;
}

void PipelineExecutor::hand_over(Channel& c, int64_t micro_batch, const Tensor& value, const Step& step) {
  TRIREME_ASSERT(value.defined() && value.shape() == step.shape && value.dtype() == step.dtype,
                 fmt::format("a stage made {}, not {}", to_string(value.shape()), to_string(step.shape)));
  if (c.peer == rank_) {
    c.arriving.emplace(micro_batch, std::pair(value.detach(), Work()));
    return;
  }
  if (!step.exchanges) return;
  Work work = group_->send(value, c.peer, c.tag, fmt::format("micro-batch {}", micro_batch), step.ctx.stream);
  sends_.push_back({std::move(work), c.peer, c.peer_actions[static_cast<size_t>(micro_batch)]});
}

/// What the peer's action made is here, so what that one and those before it took has arrived there.
void PipelineExecutor::release_sends(int peer, size_t action) {
  for (const Sent& sent : sends_)
    if (sent.peer == peer && sent.taken_by <= action) sent.work.release_tensors();
}

void PipelineExecutor::drop_finished_sends() {
  while (!sends_.empty() && sends_.front().work.done()) {
    sends_.front().work.wait();  // throws when it failed
    sends_.pop_front();
  }
}

/// As schedules call it; without a pipeline, in a word.
std::string PipelineExecutor::span_name(const Action& action) const {
  if (num_stages() > 1) return to_string(action);
  return action.is_forward() ? "forward" : "backward";
}

void PipelineExecutor::run_forward_action(const Action& action, const Step& step) {
  const int64_t stage = action.stage;
  InFlight& run = in_flight_[{stage, action.micro_batch}];
  run.tape = std::make_unique<Tape>();
  if (stage > 0)
    run.input = run.tape->watch(take(channel(stage - 1, Direction::forward), action.micro_batch, step));
  const std::string name = span_name(action);
  const TraceScope scope(step.ctx.tracer, Tracer::Lane::step,
                         name);  // what is waited for before is idle time
  Context ctx = step.ctx;
  ctx.tape = run.tape.get();
  ctx.gradients = nullptr;
  run.output = step.forward(ctx, stage, action.micro_batch, run.input);
  if (stage + 1 < num_stages())
    hand_over(channel(stage, Direction::forward), action.micro_batch, run.output, step);
}

void PipelineExecutor::run_backward_action(const Action& action, const Step& step, bool last_of_stage) {
  const int64_t stage = action.stage;
  const auto found = in_flight_.find({stage, action.micro_batch});
  TRIREME_ASSERT(found != in_flight_.end(), "backward before forward");
  InFlight& run = found->second;
  Context ctx = step.ctx;
  ctx.gradients = last_of_stage ? step.sink : nullptr;
  Tensors seeds;  // none: the loss
  if (action.makes_input_gradient() && stage + 1 < num_stages())
    seeds = {take(channel(stage + 1, Direction::backward), action.micro_batch, step)};
  const std::string name = span_name(action);
  const TraceScope scope(ctx.tracer, Tracer::Lane::step, name);
  if (action.makes_input_gradient()) {
    const Tensor root = std::exchange(run.output, Tensor());
    if (action.kind == ActionKind::backward)
      run.tape->backward(ctx, std::span(&root, 1), std::move(seeds));
    else
      run.tape->backward_input(ctx, std::span(&root, 1), std::move(seeds));
    if (stage > 0)
      hand_over(channel(stage, Direction::backward), action.micro_batch, run.tape->take_grad(run.input),
                step);
    run.input = Tensor();
  } else {
    run.tape->backward_weight(ctx);
  }
  if (action.makes_weight_gradient()) in_flight_.erase(found);
}

/// A byte through every channel, one after the other: all ranks have them in one order.
void PipelineExecutor::connect(const Context& ctx) {
  const Tensor byte = ctx.zeros({1}, DType::u8, MemoryClass::workspace);
  for (const auto& [key, c] : channels_) {
    if (c.peer == rank_) continue;
    const Work work = has_stage(key.first) ? group_->send(byte, c.peer, c.tag, "connection", ctx.stream)
                                           : group_->recv(byte, c.peer, c.tag, "connection", ctx.stream);
    work.wait();
  }
}

void PipelineExecutor::rehearse(const Context& outer, const Shape& shape, DType dtype,
                                const StageForward& forward) {
  Context ctx = outer;
  ctx.tracer = nullptr;  // no part of a step
  run_actions({ctx, shape, dtype, forward, nullptr, /*exchanges=*/false,
               /*num_micro_batches=*/num_stages() == 1 ? kUnlikeMicroBatches : kAllMicroBatches});
}

void PipelineExecutor::run(const Context& ctx, const Shape& shape, DType dtype, const StageForward& forward,
                           GradientSink* sink) {
  run_actions({ctx, shape, dtype, forward, sink});
  for (; !sends_.empty(); sends_.pop_front()) sends_.front().work.wait(*ctx.stream);
}

void PipelineExecutor::run_actions(const Step& step) {
  in_flight_.clear();  // a step that was given up may have left all of these
  sends_.clear();
  for (auto& [key, c] : channels_) {
    c.posted = 0;
    c.arriving.clear();
  }
  const std::vector<Action>& mine = schedule_.ranks[static_cast<size_t>(rank_)];
  for (done_ = 0; done_ < mine.size(); ++done_) {
    if (step.exchanges) post_receives(step);
    const Action& action = mine[done_];
    if (action.micro_batch >= step.num_micro_batches) continue;
    if (action.is_forward())
      run_forward_action(action, step);
    else
      run_backward_action(action, step, completes_gradients_[done_]);
    drop_finished_sends();
  }
  TRIREME_ASSERT(in_flight_.empty(), "micro-batches were left without a backward pass");
}

Tensor PipelineExecutor::run_forward(const Context& outer, const Shape& shape, DType dtype,
                                     const StageForward& forward) {
  Context ctx = outer;
  ctx.tape = nullptr;
  ctx.gradients = nullptr;
  Tensor value;
  for (const int64_t stage : stages_) {
    if (stage > 0 && !has_stage(stage - 1)) {
      value = ctx.empty(shape, dtype);
      group_->recv(value, rank_of(stage - 1), static_cast<int>(2 * (stage - 1)), "forward", ctx.stream)
          .wait(*ctx.stream);
    }
    value = forward(ctx, stage, 0, value);
    if (stage + 1 < num_stages() && !has_stage(stage + 1)) {
      group_->send(value, rank_of(stage + 1), static_cast<int>(2 * stage), "forward", ctx.stream)
          .wait(*ctx.stream);
      value = Tensor();
    }
  }
  return value;
}

}  // namespace trireme
