// PeerWatch: notices at once that the process of another rank of this machine is gone, whatever both were doing:
// a kernel that is out of memory, a crash, kill -9. A launcher that sees a rank die ends the others within a
// second or two, so time-outs come too late to say who died and what the others were doing.
//
// Each rank listens on a socket with a name that only its job knows (an abstract one, of no file) and connects to
// those that listen already. When a process ends, the kernel closes its ends. One that ends on purpose says so
// first. Ranks of other machines are not seen; what is seen here is told to them by the monitor.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>

namespace trireme::comm {

/// What a launcher's environment says of this process before MPI_Init.
struct JobPlace {
  std::string job;     // differs between jobs of this machine
  int rank = 0;
  int size = 1;
  int local_size = 0;  // ranks of this machine; 0: not known
  /// Nothing where there is no launcher with PMIx (mpirun, srun --mpi=pmix), or one rank only.
  static std::optional<JobPlace> of_environment();
};

class PeerWatch {
 public:
  using Milliseconds = std::chrono::milliseconds;

  /// Where the system refuses such sockets nothing is watched, and deaths are noticed by time-outs. `told_to_end`
  /// says whether this process got a signal that asks it to end; empty where nobody knows.
  explicit PeerWatch(JobPlace place, std::function<bool()> told_to_end = {});
  /// Says goodbye: that this process ends is no loss from here on.
  ~PeerWatch();
  PeerWatch(const PeerWatch&) = delete;
  PeerWatch& operator=(const PeerWatch&) = delete;

  /// The calling thread goes into `call`, a function of MPI that blocks without a time-out: until watch() a lost
  /// peer, or `timeout`, ends this process with a message and status 1. So does a launcher's wish to end it while
  /// ranks of this machine have not been seen: these died before they could be watched. SIGCONT, with which mpirun
  /// begins that, is blocked in the calling thread until watch().
  void enter(std::string call, Milliseconds timeout);

  /// From here on a thread of this object calls lost(rank), once for each rank that is gone; and some time later,
  /// unless take_over() was called, it prints what report() says.
  struct Listener {
    std::function<void(int rank)> lost;
    std::function<std::string()> report;  // "" when there is nothing to say yet
  };
  void watch(Listener listener);
  /// The caller is about to report the loss itself.
  void take_over() { taken_over_ = true; }

 private:
  using Clock = std::chrono::steady_clock;
  void meet_peers();
  void run();
  Milliseconds pause() const;
  void accept_peers();
  void read_peer(int fd);
  void take_hint(Milliseconds patience);
  void check_deadlines();
  [[noreturn]] void end_process(const std::string& why);
  std::string unseen_text() const;
  std::string name_of(std::optional<int> rank = {}) const;
  static void block_sigcont(bool block);
  void say_goodbye();

  const JobPlace place_;
  const std::function<bool()> told_to_end_;
  int listener_fd_ = -1, wake_fd_ = -1, signal_fd_ = -1;
  std::atomic<bool> taken_over_ = false, stopping_ = false;

  std::mutex mutex_;              // guards from here ...
  std::map<int, int> peers_;      // rank, by descriptor
  std::set<int> seen_, lost_;     // ranks
  std::string call_;              // that the process is in; "": watch()
  Milliseconds timeout_{0};
  Clock::time_point call_ends_ = Clock::time_point::max();
  Clock::time_point hint_ends_ = Clock::time_point::max();  // of our patience after we were told to end
  Clock::time_point report_at_ = Clock::time_point::max();
  Listener listener_;             // ... to here
  std::thread thread_;
};

}  // namespace trireme::comm
