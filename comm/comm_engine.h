// CommEngine: runs the operations of all of one rank's groups. Its own thread does so while the caller
// computes; a caller that waits takes over, so that a blocking call costs no switch of threads. Whoever runs
// them ("drives") owns the queues, the transport and the monitor, so the transport sees one thread at a time.
//
// The first thing that goes wrong ends everything: the operation's error, a time-out, a peer that says it
// failed. All operations, also those to come, then throw CommError, and the peers are told.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/monitor.h"
#include "comm/operation.h"

namespace trireme::comm {

class CommEngine {
 public:
  explicit CommEngine(std::unique_ptr<Transport> transport);
  /// Operations that are not done are given up, without telling anybody. See close().
  ~CommEngine();

  int rank() const { return rank_; }
  int size() const { return size_; }
  Transport& transport() { return *transport_; }  // for the driver

  void submit(std::shared_ptr<Operation> operation);
  void drive_until_done(const Operation& operation);
  /// What of the group is not done is given up, so that its memory and tracer may go; nobody is told.
  void give_up(const Channel& channel);

  /// This rank can't go on: its operations are given up, and the peers' throw "rank R failed: reason".
  /// Returns when they were told, or after a second. Nothing when something failed before.
  void fail(const std::string& reason);
  /// The process of `rank` is gone: operations are given up, and the peers are told. Returns at once.
  void lose(int rank);
  /// "rank 0 was in barrier 'start' when rank 1 died: its process is gone": what this rank was doing when it lost one.
  std::string loss_report() const;
  /// Why everything was given up, here or elsewhere; nothing while all is well. News of a peer's failure come
  /// within a tenth of a second, also while no operation is under way.
  std::optional<std::string> failure() const;
  /// Peers that have not been heard of for some time.
  std::vector<int> silent_ranks() const;
  /// Before an abort: waits until all ranks are about to end, so that each has reported its error; at most
  /// `patience`, and not when one is lost: then the launcher does not wait either.
  void leave(std::chrono::milliseconds patience);
  /// Before a clean end: beats stop. All ranks must meet once more after it (a barrier) before the engine
  /// goes.
  void stop_beats();
  /// All operations are done, and the peers' too: the destructor may free everything.
  void close() { closed_ = true; }

  /// Groups are numbered alike on their ranks: all agree on the first number that is free on each of them.
  uint32_t first_free_group() const { return first_free_group_; }
  void set_first_free_group(uint32_t id);

 private:
  using Lock = std::unique_lock<std::mutex>;
  template <class Over>
  void drive(Lock& lock, Over over);
  template <class Over>
  void drive_or_wait(Over over, Clock::time_point deadline = Clock::time_point::max());
  void run_thread();
  bool has_work() const { return !num_unfinished_.empty() || !all_told_; }
  void take_inbox();
  void take_abandoned();

  // The driver's.
  void forgive_standstill(Clock::time_point now);
  bool progress();
  void poll_monitor(Clock::time_point now);
  void take_losses(const std::vector<int>& ranks, Clock::time_point now);
  bool advance(Operation& operation, Clock::time_point now);
  void finish(const std::shared_ptr<Operation>& operation, std::optional<Failure> failure);
  enum class Origin { here, elsewhere, loss };
  void fail_all(const std::string& reason, Origin origin, const Operation* culprit = nullptr);
  std::string timeout_text(const Operation& operation, Clock::time_point now) const;
  void mark_finished(Operation& operation, std::optional<Failure> failure);  // with mutex_ held
  Failure given_up(const Operation& operation, const std::string& reason) const;

  std::unique_ptr<Transport> transport_;
  const int rank_;
  const int size_;
  uint32_t first_free_group_ = 2;  // 0 is the monitor's, 1 the world

  mutable std::mutex mutex_;  // guards from here ...
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Operation>> inbox_;
  std::map<uint32_t, size_t> num_unfinished_;  // by group, where there are any
  std::vector<uint32_t> abandoned_groups_;     // which the driver has not seen yet
  bool driving_ = false;
  bool stopping_ = false;
  std::optional<std::string> failure_;          // why everything was given up
  std::optional<std::string> failure_to_tell_;  // of this rank, which the driver has not seen yet
  std::vector<int> silent_ranks_;
  std::vector<int> losses_;  // which the driver has not seen yet
  std::string loss_report_;
  bool leave_wanted_ = false;
  bool quiet_wanted_ = false;
  bool all_told_ = true;      // every peer knows of this rank's failure or leaving
  bool all_leaving_ = false;  // ... to here

  std::map<QueueKey, std::deque<std::shared_ptr<Operation>>> queues_;  // the driver's, from here ...
  std::vector<std::shared_ptr<Operation>> abandoned_;
  std::unique_ptr<Monitor> monitor_;
  Activity activity_;
  Clock::time_point next_poll_;
  Clock::time_point last_moved_;
  Clock::time_point last_pass_;  // ... to here

  bool closed_ = false;
  std::thread thread_;
};

}  // namespace trireme::comm
