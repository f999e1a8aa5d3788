#include "launcher/train_step.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "comm/host_tensor.h"
#include "core/ops/elementwise.h"
#include "core/recorder.h"
#include "core/tape.h"
#include "core/trace.h"

namespace trireme {

RecordMode record_mode(const std::string& cuda_graph, bool on_one_machine) {
  if (cuda_graph == "off") return RecordMode::none;
  return cuda_graph == "pieces" || !on_one_machine ? RecordMode::pieces : RecordMode::in_one;
}

bool captures_copies(const std::string& cuda_graph, int64_t tensor_ranks) {
  return cuda_graph == "whole" || (cuda_graph == "auto" && tensor_ranks == 1);
}

TrainStep::TrainStep(const Context& ctx, const TrainStepParts& parts, const BatchGeometry& geometry, int64_t micro_batches,
                     uint64_t seed, RecordMode record)
    : ctx_(ctx),
      parts_(parts),
      geometry_(geometry),
      micro_batches_(micro_batches),
      record_(record != RecordMode::none),
      may_capture_(record == RecordMode::in_one) {
  const Shape samples{micro_batches * geometry.micro, parts_.model.sequence_here(geometry.sequence)};
  tokens_ = ctx_.zeros(samples, DType::i32, MemoryClass::data);
  targets_ = ctx_.zeros(samples, DType::i32, MemoryClass::data);
  step_ = ctx_.zeros({1}, DType::i64, MemoryClass::data);
  stats_ = ctx_.zeros({kStats}, DType::f32, MemoryClass::workspace);
  ctx_.training = true;
  ctx_.random.seed = seed;
  ctx_.random.step = step_;
  ctx_.loss_scale = parts_.guard.loss_scale();
  for (Slot& slot : slots_) {
    slot.host = ctx_.backend->allocate_host((kStats + StepControl::kSize) * sizeof(float));
    slot.done = ctx_.backend->make_timed_event();
  }
}

TrainStep::~TrainStep() {
  if (in_flight() > 0 || recording_) ctx_.stream->finish();  // steps in flight write to their slots
  if (!recording_) return;
  recording_.reset();
  ctx_.allocator->forget_recording();
}

void TrainStep::prepare() {
  parts_.stats.barrier("connection").wait();
  parts_.model.prepare(ctx_, [this](int64_t i) { return micro_batch(i); }, stats_.flat_view(loss, {1}));
}

/// Everything of a step that comes from the host; the rest reads it on the device.
void TrainStep::put_inputs(const Batch& batch, double lr, StepRequests requests) {
  const auto put = [&](const Tensor& to, const void* from) { ctx_.backend->copy(to.raw(), from, to.bytes(), *ctx_.stream); };
  const std::vector<int32_t> tokens = parts_.model.tokens_here(batch.tokens, tokens_.dim(0));
  const std::vector<int32_t> targets = parts_.model.tokens_here(batch.targets, tokens_.dim(0));
  TRIREME_ASSERT(static_cast<int64_t>(tokens.size()) == tokens_.numel(), "a batch of another size");
  put(tokens_, tokens.data());
  put(targets_, targets.data());
  put(step_, &batch.step);
  std::array<float, kStats> stats{};
  stats[stop] = requests.stop ? 1.0f : 0.0f;
  stats[checkpoint] = requests.checkpoint ? 1.0f : 0.0f;
  put(stats_, stats.data());
  parts_.guard.set_learning_rate(ctx_, lr);
}

MicroBatch TrainStep::micro_batch(int64_t i) const {
  const auto scale = static_cast<float>(1.0 / static_cast<double>(geometry_.global * geometry_.sequence));
  const int64_t begin = i * geometry_.micro, end = begin + geometry_.micro;
  return {tokens_.slice(begin, end), targets_.slice(begin, end), scale};
}

/// Forward and backward of this rank's samples; their losses add up in stats_.
void TrainStep::run_micro_batches() {
  Context ctx = ctx_;
  ctx.random.first_sample = first_sample_;
  parts_.model.train(ctx, [this](int64_t i) { return micro_batch(i); }, stats_.flat_view(loss, {1}), &parts_.reducer);
}

/// Adds what this rank counts of the gradients, as soon as they are summed: the last ones may still be under way meanwhile.
void TrainStep::sum_gradient_squares(Tensor& norms) {
  Reducer& reducer = parts_.reducer;
  const std::span<const Shard> counted = reducer.counted();
  const auto count = [&](const Shard& shard) {
    for (const Tensor& part : primary_gradients(shard)) ctx_.kernel<SumSquaresKernel>()(ctx_, part, norms);
  };
  reducer.send_rest();
  if (counted.empty()) return;
  for (size_t i = 0; i + 1 < counted.size(); ++i) reducer.wait(i);
  std::ranges::for_each(counted.first(counted.size() - 1), count);
  reducer.wait(counted.size() - 1);
  count(counted.back());
}

void TrainStep::update() {
  TraceScope scope(ctx_.tracer, Tracer::Lane::step, "update");
  const CallModeScope scope_of_calls = parts_.model.calls_wait(first_times_);
  Tensor norms = stats_.flat_view(sum_squares, {2});
  sum_gradient_squares(norms);
  parts_.stats.all_reduce(stats_, ReduceOp::sum, "step statistics", ctx_.stream).wait(*ctx_.stream);
  const Tensor& decision = parts_.guard.decide(ctx_, stats_.flat_view(0, {UpdateGuard::kStats}));
  parts_.optimizer.step(ctx_, parts_.shards, decision);
  parts_.reducer.publish();
}

void TrainStep::compute() {
  parts_.reducer.begin_step();
  run_micro_batches();
  update();
}

bool TrainStep::has_captured() const { return recording_ && ctx_.recorder->has_branches(); }

bool TrainStep::replay() {
  const bool traced = ctx_.tracer && ctx_.tracer->recording();  // the spans of a replay can't be told apart
  if (!record_ || launched_ < kFirstRecorded || traced) return false;
  if (recording_ && !ctx_.allocator->begin_replay()) {
    recording_.reset();
    ctx_.allocator->forget_recording();
    ctx_.allocator->release_cached();  // what took its place, which recording would leave there
  }
  if (!recording_) {
    record();
    if (!recording_ || !ctx_.allocator->begin_replay()) return false;
  }
  TraceScope scope(ctx_.tracer, Tracer::Lane::step, "replay");
  recording_->replay(*ctx_.stream);
  ctx_.allocator->end_replay();
  return true;
}

/// Nothing of the step is run meanwhile, so where it fails the step can still be launched piece by piece.
void TrainStep::record_once() {
  ctx_.allocator->begin_recording();
  const auto abandon = [this] { parts_.reducer.abandon_step(); };
  try {
    recording_ = ctx_.recorder->record([this] { compute(); }, abandon, may_capture_);
  } catch (const IoError& e) {
    abandon();
    ctx_.backend->add_note(fmt::format("run.cuda_graph: steps are launched one by one, for recording one failed: {}", e.what()));
  }
  ctx_.allocator->end_recording();
  if (!recording_) ctx_.allocator->forget_recording();
  record_ = recording_ != nullptr;
}

/// The device has to find memory for it. The first time comes at the same step on all ranks, others need not.
void TrainStep::record() {
  record_once();
  if (std::exchange(has_recorded_, true)) return;
  slot_of(launched_ - 1).first_recorded = true;
  if (may_capture_ && ctx_.backend->is_asynchronous() && parts_.stats.size() > 1) agree_to_capture();
  parts_.model.meet("recorded");
}

/// NCCL wants its calls to be captured by all ranks, or by none.
void TrainStep::agree_to_capture() {
  const bool captured = recording_ && ctx_.recorder->has_branches();
  int32_t all_captured = captured ? 1 : 0;
  parts_.stats.all_reduce(wrap_host(std::span<int32_t>(&all_captured, 1)), ReduceOp::min, "recorded").wait();
  if (all_captured != 0) return;
  may_capture_ = false;
  if (!captured) return;
  recording_.reset();
  ctx_.allocator->forget_recording();
  record_once();
}

void TrainStep::read_back(Slot& slot) {
  auto* host = static_cast<float*>(slot.host.get());
  ctx_.backend->copy(host, stats_.raw(), stats_.bytes(), *ctx_.stream);
  const Tensor& control = parts_.guard.control();
  ctx_.backend->copy(host + kStats, control.raw(), control.bytes(), *ctx_.stream);
  slot.done->record(*ctx_.stream);
}

void TrainStep::launch(const Batch& batch, double lr, StepRequests requests) {
  TRIREME_ASSERT(in_flight() < kMaxInFlight, "too many steps in flight: collect() first");
  Slot& slot = slot_of(launched_);
  slot.step = batch.step;
  slot.first_recorded = false;
  if (launched_ == 0) prepare();
  if (in_flight() == 0) slot_of(launched_ - 1).done->record(*ctx_.stream);  // what came in between is none of this step's time
  put_inputs(batch, lr, requests);
  TRIREME_ASSERT(launched_ == 0 || batch.first_sample == first_sample_, "a rank's part of a batch moved");
  first_sample_ = batch.first_sample;
  first_times_ = ctx_.backend->is_asynchronous() && launched_ + 1 < kFirstRecorded;
  parts_.reducer.hold(first_times_);
  ++launched_;
  if (!replay()) compute();
  if (first_times_) parts_.model.meet("first steps");  // nobody begins another step while kernels may be loaded
  read_back(slot);
}

StepResult TrainStep::collect() {
  TRIREME_ASSERT(in_flight() > 0, "no step is in flight");
  const Slot& before = slot_of(collected_ - 1);
  const Slot& slot = slot_of(collected_++);
  slot.done->synchronize();
  // A device that gave a collective up goes on with what it has: those numbers are no result.
  parts_.model.check_peers();
  if (const auto failure = parts_.stats.failure()) throw CommError(*failure);
  const auto* host = static_cast<const float*>(slot.host.get());
  StepResult result;
  result.step = slot.step;
  result.first_recorded = slot.first_recorded;
  result.loss = host[loss];
  result.requests = {host[stop] > 0.0f, host[checkpoint] > 0.0f};
  std::copy_n(host + kStats, StepControl::kSize, reinterpret_cast<float*>(&result.control));
  result.seconds = slot.done->seconds_since(*before.done);
  return result;
}

}  // namespace trireme
