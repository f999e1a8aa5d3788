// DeviceOperation: one call of a group of device memory, from its submission to its end. DeviceEngine runs it, the
// caller's Work waits for it. What it does between is its implementation's: comm/staged_group.h, comm/nccl/.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "comm/operation.h"

namespace trireme::comm {

class DeviceEngine;

/// What was called. `input` and `output` are the same where the operation has one tensor; a send has no output, a receive
/// no input, a barrier neither.
struct DeviceCall {
  OpKind kind = OpKind::barrier;
  Tensor input{}, output{};
  ReduceOp reduce_op = ReduceOp::sum;
  int peer = -1;  // of a message; the root of a broadcast
  int tag = 0;

  size_t bytes() const;    // of the larger tensor
  QueueKey queue() const;  // in its group
};

std::string text_of(OpKind kind, std::string_view label);  // "all_reduce 'bucket 3'"

class DeviceOperation : public Work::State {
 public:
  /// `after`, which may be null, was recorded where the tensors are ready; `end` is recorded by issue().
  DeviceOperation(DeviceCall call, std::string_view label, const GroupOptions& options, std::unique_ptr<Event> after,
                  std::unique_ptr<Event> end);

  /// The stream that its tensors are used on, if any. Once that one waits, they may be given back: memory is reused in the
  /// order of the stream. Else the host, which is ahead of the device, would keep the tensors of all that is under way.
  void set_user(const Stream* user) { user_ = user; }

  const std::string label;
  const GroupOptions options;
  const size_t bytes;
  const QueueKey queue;
  virtual std::string text() const { return text_of(call_.kind, label); }

  // Work::State
  bool done() const override { return stage() >= Stage::finished; }
  void wait() override;
  void wait(Stream& stream) override;
  void wait_until_issued() override;

 protected:
  /// Goes on as far as it can without waiting. True when all that is left is queued on the device, with end_ recorded
  /// behind it. Called again and again until then, by one thread at a time; throws when the operation failed.
  virtual bool issue() = 0;
  /// Whether it has got further since this was asked last, or waits for no peer: the time that it may take begins anew.
  virtual bool has_moved() { return false; }
  /// Whether it is a replay of calls of its queue. NCCL takes no other call of a communicator while the device is at one.
  virtual bool is_replay() const { return false; }
  /// Whether a trace has a span of it.
  virtual bool is_traced() const { return true; }
  /// It was done: what it worked with may go.
  virtual void release();
  /// It failed: what it has not issued never will be.
  virtual void leave() noexcept {}
  /// The host group has failed: how, in the words of the operation of that group which this one has under way, if any.
  virtual std::optional<Failure> host_failure() { return std::nullopt; }
  /// Of issue(): it begins now. Or it makes and records begin_, where it begins on the device.
  void note_begin(Clock::time_point now);

  DeviceCall call_;
  std::unique_ptr<Event> after_;
  std::unique_ptr<Event> begin_;
  std::unique_ptr<Event> end_;
  bool limited_ = false;  // the engine ends it when options.timeout_ms are over from its beginning

 private:
  friend class DeviceEngine;
  enum class Stage : uint8_t { queued, issued, finished, failed };
  Stage stage() const { return stage_.load(std::memory_order_acquire); }
  void throw_if_failed() const;

  const Stream* user_ = nullptr;
  std::shared_ptr<DeviceEngine> engine_;  // set when it is submitted
  std::optional<Clock::time_point> begun_at_;
  int64_t begun_us_ = 0;  // of the trace
  std::optional<Failure> failure_;
  std::atomic<Stage> stage_ = Stage::queued;
};

/// How an operation of a host group failed that is done or has failed; nothing when it did not.
std::optional<Failure> failure_of(const Work& work);

}  // namespace trireme::comm
