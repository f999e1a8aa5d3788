#include "comm/monitor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace trireme::comm {
namespace {

constexpr auto kBeatPeriod = std::chrono::milliseconds(500);
constexpr auto kSilence = 3 * kBeatPeriod;  // a rank that was not heard for longer is called silent
constexpr uint32_t kMonitorTag = 0;         // group 0 is the monitor's

template <size_t N>
void set_text(char (&to)[N], const std::string& from) {
  const size_t length = std::min(from.size(), N - 1);
  std::memcpy(to, from.data(), length);
  to[length] = '\0';
}

}  // namespace

enum class NoticeKind : uint8_t { beat, failed, lost, leaving };  // lost: another rank

struct Monitor::Notice {
  NoticeKind kind;
  int64_t finished_ms_ago;
  char finished[96];
  char running[96];
  char reason[1200];
};

/// An operation that a rank is known to have finished.
struct Known {
  std::string operation, then_in;
  Clock::time_point at{};
};

struct Monitor::Peer {
  int rank = 0;
  Notice incoming{}, outgoing{};  // before the requests on them
  std::unique_ptr<Request> incoming_request, outgoing_request;
  Clock::time_point heard_at = Clock::now();
  Known told, seen;  // by its notices, and by what both took part in
  bool leaving = false, lost = false;
  bool owes_beat = false, owes_failure = false, owes_leaving = false;  // what this rank still has to send
};

Monitor::Monitor(Transport& transport) : transport_(transport), next_beat_(Clock::now()) {
  for (int rank = 0; rank < transport.size(); ++rank) {
    if (rank == transport.rank()) continue;
    auto peer = std::make_unique<Peer>();
    peer->rank = rank;
    peer->incoming_request =
        transport.recv(rank, kMonitorTag, std::as_writable_bytes(std::span(&peer->incoming, 1)));
    peers_.push_back(std::move(peer));
  }
}

Monitor::~Monitor() = default;

std::optional<std::string> Monitor::poll(Clock::time_point now, const Activity& mine) {
  if (beats_ && now >= next_beat_) {
    next_beat_ = now + kBeatPeriod;
    for (auto& peer : peers_) peer->owes_beat = true;
  }
  for (auto& peer : peers_) {
    receive(*peer, now);
    send(*peer, now, mine);
  }
  return std::exchange(failure_, std::nullopt);
}

void Monitor::receive(Peer& peer, Clock::time_point now) {
  while (peer.incoming_request->done()) {
    const Notice& notice = peer.incoming;
    peer.heard_at = now;
    peer.told = {notice.finished, notice.running, now - std::chrono::milliseconds(notice.finished_ms_ago)};
    if (notice.kind == NoticeKind::leaving) peer.leaving = true;
    if (notice.kind == NoticeKind::failed && !failure_)
      failure_ = fmt::format("rank {} failed: {}", peer.rank, notice.reason);
    if (notice.kind == NoticeKind::lost && !failure_) failure_ = notice.reason;
    peer.incoming_request =
        transport_.recv(peer.rank, kMonitorTag, std::as_writable_bytes(std::span(&peer.incoming, 1)));
  }
}

void Monitor::saw(int rank, const std::string& operation, Clock::time_point now) {
  if (rank == transport_.rank()) return;
  Peer& peer = this->peer(rank);
  peer.heard_at = peer.seen.at = now;
  peer.seen.operation = operation;
}

Monitor::Peer& Monitor::peer(int rank) const {
  TRIREME_ASSERT(0 <= rank && rank < transport_.size() && rank != transport_.rank(),
                 fmt::format("rank {} is no peer", rank));
  return *peers_[static_cast<size_t>(rank < transport_.rank() ? rank : rank - 1)];
}

void Monitor::send(Peer& peer, Clock::time_point now, const Activity& mine) {
  if (peer.lost) return;
  if (peer.outgoing_request && !peer.outgoing_request->done()) return;  // it is not listening: don't pile up
  peer.outgoing_request.reset();
  Notice& notice = peer.outgoing;
  if (std::exchange(peer.owes_failure, false)) {
    notice.kind = is_loss_ ? NoticeKind::lost : NoticeKind::failed;
    set_text(notice.reason, reason_);
  } else if (std::exchange(peer.owes_leaving, false)) {
    notice.kind = NoticeKind::leaving;
  } else if (std::exchange(peer.owes_beat, false)) {
    notice.kind = NoticeKind::beat;
  } else {
    return;
  }
  notice.finished_ms_ago =
      std::chrono::duration_cast<std::chrono::milliseconds>(now - mine.finished_at).count();
  set_text(notice.finished, mine.finished);
  set_text(notice.running, mine.running);
  peer.outgoing_request = transport_.send(peer.rank, kMonitorTag, std::as_bytes(std::span(&notice, 1)));
}

void Monitor::tell_failure(const std::string& reason) {
  reason_ = reason;
  for (auto& peer : peers_) peer->owes_failure = true;
}

void Monitor::tell_loss(const std::string& reason) {
  is_loss_ = true;
  tell_failure(reason);
}

void Monitor::tell_leaving() {
  for (auto& peer : peers_) peer->owes_leaving = true;
}

bool Monitor::all_told() const {
  return std::ranges::all_of(peers_, [](const auto& peer) {
    if (peer->lost) return true;
    const bool under_way = peer->outgoing_request && peer->outgoing.kind != NoticeKind::beat;
    return !peer->owes_failure && !peer->owes_leaving && (!under_way || peer->outgoing_request->done());
  });
}

bool Monitor::all_leaving() const {
  return std::ranges::all_of(peers_, [](const auto& peer) { return peer->leaving || peer->lost; });
}

std::string Monitor::lose(int rank, Clock::time_point now) {
  Peer& peer = this->peer(rank);
  peer.lost = true;
  std::string text = fmt::format("rank {} died: its process is gone", rank);
  if (!peer.seen.operation.empty())
    text += fmt::format("; it last took part in {} {} ago", peer.seen.operation, seconds_text(now - peer.seen.at));
  return text;
}

std::vector<int> Monitor::silent_ranks(Clock::time_point now) const {
  std::vector<int> ranks;
  for (const auto& peer : peers_)
    if (now - peer->heard_at > kSilence) ranks.push_back(peer->rank);
  return ranks;
}

std::string Monitor::describe(int rank, Clock::time_point now) const {
  const Peer& peer = this->peer(rank);
  const auto silence = now - peer.heard_at;
  // A notice may be older than it looks: how long it was under way is not known.
  const Known& known = peer.told.at > peer.seen.at + kBeatPeriod ? peer.told : peer.seen;
  std::string text = known.operation.empty() ? fmt::format("rank {} has not finished anything yet", rank)
                                             : fmt::format("rank {} last took part in {} {} ago", rank,
                                                           known.operation, seconds_text(now - known.at));
  if (!known.then_in.empty()) text += fmt::format(", was then in {},", known.then_in);
  return text + (silence > kSilence ? fmt::format(" and has been silent for {}", seconds_text(silence))
                                    : " and is alive");
}

std::string seconds_text(std::chrono::nanoseconds duration) {
  return fmt::format("{:.6g} s", std::round(std::chrono::duration<double>(duration).count() * 10) / 10);
}

}  // namespace trireme::comm
