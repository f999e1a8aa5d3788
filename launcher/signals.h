// Signals of a training run. SIGINT, SIGTERM and SIGUSR2 ask it to stop after this step with a checkpoint;
// SIGUSR1 asks for a checkpoint and no more. A second SIGINT ends the process at once. (SIGUSR2 is there
// because mpirun passes it on to the ranks, but kills them at SIGINT and SIGTERM: `trireme launch` sends it
// in their place.)
#pragma once

#include <array>
#include <csignal>
#include <semaphore>
#include <thread>

namespace trireme {

/// Handles the signals above while it lives, and restores what was there before. One at a time in a process:
/// what handlers write to is the one global variable that signals force on us.
///
/// Handlers run on a thread of their own: the calling thread, and those that it starts from then on, block these
/// signals. A handler puts a frame where the stack pointer points, and oneDNN's matrix products let it point into
/// their buffers on the heap, so no thread that computes may be interrupted.
class SignalRequests {
 public:
  SignalRequests();
  ~SignalRequests();
  SignalRequests(const SignalRequests&) = delete;
  SignalRequests& operator=(const SignalRequests&) = delete;

  bool stop_requested() const;
  /// True once after each SIGUSR1 (several before the call count as one).
  bool take_checkpoint_request();

 private:
  static constexpr std::array kSignals{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
  static sigset_t signal_set();
  std::array<struct sigaction, kSignals.size()> previous_;
  sigset_t previous_mask_;
  std::binary_semaphore ended_{0};
  std::thread thread_;  // waits, where signals can interrupt it
};

}  // namespace trireme
