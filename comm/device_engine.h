// DeviceEngine: runs the operations of one group of device memory. Its thread looks at what is under way, so that
// tensors are given back, time-outs and failures are noticed and traces are right whoever waits for what; a caller that
// waits looks too, which costs no switch of threads.
//
// As in CommEngine, the first thing that goes wrong ends everything: the device's work is aborted, the operations throw,
// the host group is told and so are the peers. What ends the host group ends this one.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "comm/device_operation.h"

namespace trireme::comm {

/// What a group's operations run on: communicators, buffers. Used by one thread at a time.
class DeviceLink {
 public:
  virtual ~DeviceLink() = default;
  /// The engine's thread begins: makes its device the current one, so that no other device is touched by that thread.
  virtual void enter_thread() = 0;
  /// Throws when it is broken, so that what is issued will never be done.
  virtual void check() {}
  /// Whether what is done has its result: not when a peer gave up. Then the host group is about to fail.
  virtual bool has_results() { return true; }
  /// Ends what is issued, without results.
  virtual void abort() noexcept {}
};

class DeviceEngine : public std::enable_shared_from_this<DeviceEngine> {
 public:
  /// `host` has the same ranks and outlives close(); its failures are this one's.
  DeviceEngine(Group& host, std::unique_ptr<DeviceLink> link);
  /// close() was called.
  ~DeviceEngine() = default;

  DeviceLink& link() { return *link_; }  // for operations
  void submit(std::shared_ptr<DeviceOperation> operation);
  /// Looks until nothing of that queue is still to be issued, or all has failed.
  void drive_until_issued(const QueueKey& queue);
  /// Calls `use`, of the link, unless something has failed or is still to be issued of that queue. Nobody else uses the link meanwhile.
  void use_idle(const QueueKey& queue, const std::function<void()>& use);
  /// Looks until `over()`, which is asked with the mutex held.
  void drive_until(const std::function<bool()>& over);
  std::optional<std::string> failure() const;
  /// Of an operation that is issued.
  void drop_tensors(DeviceOperation& operation);

  /// The end of the group: what is issued may end (a second at most; not while an exception passes by), the rest is given
  /// up, and the link goes.
  void close();

 private:
  using Lock = std::unique_lock<std::mutex>;
  struct Queue {
    std::deque<std::shared_ptr<DeviceOperation>> operations;
    size_t num_issued = 0;  // the first ones
  };

  void run_thread();
  std::chrono::microseconds pause() const;

  // With mutex_ held.
  bool progress();
  bool issue_next(Queue& queue);
  bool take_finished(Queue& queue, Clock::time_point now);
  void check_time(DeviceOperation& operation, Clock::time_point now) const;
  void finish(DeviceOperation& operation);
  void mark_failed(DeviceOperation& operation, Failure failure);
  void give_up_all(const std::string& reason, const DeviceOperation* culprit = nullptr, Failure of_culprit = {});
  void take_failure(const std::exception& error, const DeviceOperation* culprit);
  Failure given_up(const DeviceOperation& operation, const std::string& reason) const;
  bool has_begun() const;
  bool is_issued(const QueueKey& queue) const;

  Group& host_;
  const int world_rank_;
  const std::string name_;
  std::unique_ptr<DeviceLink> link_;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::map<QueueKey, Queue> queues_;  // none is empty
  std::optional<std::string> failure_;
  Clock::time_point next_check_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace trireme::comm
