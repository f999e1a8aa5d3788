// One rank's part in a request for a checkpoint. A launcher passes SIGUSR1 on to one rank after the other,
// and all ranks write as soon as one of them has heard of it: the same signal, when it reaches a rank after
// that, asks for nothing more.
#pragma once

#include <chrono>

namespace trireme {

class CheckpointRequest {
 public:
  using Clock = std::chrono::steady_clock;
  /// How far apart a launcher's signals to the ranks may be. A request that comes later is a new one.
  static constexpr std::chrono::seconds kSpread{10};

  /// Before a step: whether this rank asks for a checkpoint, given that a signal came since the last call.
  bool ask(bool signalled, Clock::time_point now) {
    if (!signalled) return false;
    const bool known = now < expected_until_;
    expected_until_ = {};
    asked_ = asked_ || !known;
    return !known;
  }

  /// A checkpoint that some rank asked for is about to be written.
  void served(Clock::time_point now) {
    expected_until_ = asked_ ? Clock::time_point{} : now + kSpread;
    asked_ = false;
  }

 private:
  bool asked_ = false;                  // this rank did, since the last checkpoint
  Clock::time_point expected_until_{};  // a signal until then belongs to the last checkpoint
};

}  // namespace trireme
