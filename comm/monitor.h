// Monitor: what the ranks of a world know of each other. Each tells the others twice a second what it is
// doing, and at once when it fails; so an error message can say which rank is missing and what it was last
// seen doing.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/operation.h"
#include "comm/transport.h"

namespace trireme::comm {

/// What a rank is doing.
struct Activity {
  std::string finished;  // the last operation that it finished; "" when none
  Clock::time_point finished_at = Clock::now();
  std::string running;  // the operation that it is in; "" when none
};

class Monitor {
 public:
  explicit Monitor(Transport& transport);
  ~Monitor();

  /// Sends what is due and takes in what came. Returns what a peer said when it failed: "rank 1 failed: disk
  /// full".
  std::optional<std::string> poll(Clock::time_point now, const Activity& mine);

  /// `operation` was just done, so `rank` had a part in it.
  void saw(int rank, const std::string& operation, Clock::time_point now);

  /// To be sent to every peer at the next poll().
  void tell_failure(const std::string& reason);
  /// The same where `reason` tells of another rank: the peers pass it on as it is.
  void tell_loss(const std::string& reason);
  void tell_leaving();
  void stop_beats() { beats_ = false; }  // nothing is sent from here on but the two above
  bool all_told() const;                 // nothing of that is left to send
  bool all_leaving() const;

  /// The process of `rank` is gone: nothing more is sent to it, and it is not waited for. Returns "rank 1 died: its
  /// process is gone; it last took part in barrier 'start' 0.2 s ago".
  std::string lose(int rank, Clock::time_point now);

  /// Those that describe() calls silent.
  std::vector<int> silent_ranks(Clock::time_point now) const;
  /// "rank 1 last took part in barrier 'start' 31 s ago and has been silent for 30.5 s"
  std::string describe(int rank, Clock::time_point now) const;

 private:
  struct Peer;
  struct Notice;
  Peer& peer(int rank) const;
  void receive(Peer& peer, Clock::time_point now);
  void send(Peer& peer, Clock::time_point now, const Activity& mine);

  Transport& transport_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::optional<std::string> failure_;  // of a peer, not yet returned
  std::string reason_;                  // of this rank's failure, or of a loss
  bool is_loss_ = false;
  Clock::time_point next_beat_;
  bool beats_ = true;
};

/// "30 s", "0.5 s"
std::string seconds_text(std::chrono::nanoseconds duration);

}  // namespace trireme::comm
