// Operation: one call of a group, from its submission to its end. CommEngine runs it, the caller's Work waits
// for it.
#pragma once

#include <atomic>
#include <chrono>
#include <coroutine>
#include <optional>
#include <string>
#include <tuple>

#include "comm/channel.h"
#include "comm/group.h"
#include "comm/task.h"

namespace trireme::comm {

/// Thrown by operations that were given up because of something that went wrong elsewhere.
class GivenUp : public CommError {
 public:
  using CommError::CommError;
};

/// Why an operation failed. Each wait() throws an exception of its own: threads don't share one.
struct Failure {
  std::string text;
  bool is_consequence = false;  // a GivenUp
};

using Clock = std::chrono::steady_clock;

enum class OpKind : uint8_t {
  all_reduce,
  reduce_scatter,
  all_gather,
  broadcast,
  all_to_all,
  send,
  recv,
  barrier
};
std::string_view name_of(OpKind kind);

/// Operations of one queue run one after the other: all collectives of a group, or its messages to (or from)
/// one peer with one tag.
struct QueueKey {
  uint32_t group_id = 0;
  int peer = -1;  // -1: the collectives
  int tag = 0;
  bool outgoing = false;
  auto operator<=>(const QueueKey&) const = default;
};

class Operation final : public Work::State {
 public:
  Operation(std::shared_ptr<Channel> channel, OpKind kind, std::string_view label, size_t bytes,
            const GroupOptions& options);

  // What it is; fixed from submission on.
  const std::shared_ptr<Channel> channel;
  const OpKind kind;
  const std::string label;
  const size_t bytes;
  const GroupOptions options;
  QueueKey queue;
  Task task;
  std::string text() const;  // "all_reduce 'gradients, bucket 3'"

  /// In the task: `co_await op.all(std::move(messages))` goes on when all of them are done.
  struct Awaiter {
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<>) const noexcept {}
    void await_resume() const noexcept {}
  };
  Awaiter all(Messages messages);
  bool joined = false;  // set by the task of a collective when every rank has begun it

  // Work::State
  bool done() const override { return finished_.load(std::memory_order_acquire); }
  void wait() override;

 private:
  friend class CommEngine;
  Messages awaited_;
  bool started_ = false;
  Clock::time_point start_time_;
  int64_t start_us_ = 0;  // of the trace
  std::optional<Failure> failure_;
  std::atomic<bool> finished_ = false;
};

}  // namespace trireme::comm
