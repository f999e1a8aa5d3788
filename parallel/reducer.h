// Reducer: what happens to gradients between the backward pass and the optimizer, and to parameters after it.
#pragma once

#include <span>

#include "comm/group.h"
#include "core/nn/buckets.h"
#include "core/op.h"

namespace trireme {

/// The ranks whose gradients of a parameter add up, by Parameter::gradient_sum. Null where there are no
/// others.
struct ReduceGroups {
  Group* batch = nullptr;  // never null
  Group* batch_and_tensor = nullptr;
  Group* batch_and_stages = nullptr;
  Group* kv_sharers = nullptr;  // tensor ranks that hold the same key/value head
  Group& group_of(GradientSum sum) const {
    Group* group = sum == GradientSum::batch_and_tensor   ? batch_and_tensor
                   : sum == GradientSum::batch_and_stages ? batch_and_stages
                                                          : batch;
    return group ? *group : *batch;
  }
};

/// One step: begin_step(); the backward passes, the last one with this as its context's gradient sink;
/// send_rest(), and wait() for each shard; the optimizer updates shards(); publish(). Gradients come out summed
/// over the data axis. As ParameterHooks it is set in every context that uses the parameters.
class Reducer : public ParameterHooks, public GradientSink {
 public:
  /// Gradients hold nothing from here on: the first backward pass overwrites them.
  virtual void begin_step() = 0;
  /// As if begin_step() had not been called: the step is not gone on with, and nothing of it was sent.
  virtual void abandon_step() = 0;
  /// Whether nothing is sent before send_rest(), from the next step on.
  virtual void hold(bool on) = 0;
  /// Sends off what grad_ready() did not.
  virtual void send_rest() = 0;
  /// Then, of one shard after the other in their order: its gradients are summed for what follows.
  virtual void wait(size_t shard) = 0;
  /// Both, of all shards.
  void finish() {
    send_rest();
    for (size_t i = 0; i < shards().size(); ++i) wait(i);
  }
  /// What this rank must update; the same ranges for the whole run.
  virtual std::span<Shard> shards() = 0;
  /// The parts of shards(), as many, whose gradients this rank counts in a norm: of the ranks that hold the same, each counts
  /// another part.
  virtual std::span<const Shard> counted() const = 0;
  /// Whether all data ranks hold the same shards; else each has its own part of the whole.
  virtual bool replicated() const = 0;
  /// Brings the updated shards to the ranks that need them; work that uses a parameter waits for it.
  virtual void publish() = 0;
};

}  // namespace trireme
