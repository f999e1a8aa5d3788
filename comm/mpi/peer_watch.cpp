#include "comm/mpi/peer_watch.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "comm/monitor.h"
#include "core/error.h"

namespace trireme::comm {
namespace {

constexpr auto kReportPatience = std::chrono::milliseconds(300);  // Slurm kills the others after about a second
// mpirun sends SIGCONT when a rank died, SIGTERM a second later, SIGKILL another second later.
constexpr auto kSigcontPatience = std::chrono::milliseconds(800);
constexpr auto kToldToEndPatience = std::chrono::milliseconds(500);
constexpr auto kHintPeriod = std::chrono::milliseconds(100);
constexpr char kGoodbye = 'b';
constexpr std::string_view kDied = "died: its process is gone";

int number_from(const char* variable, int otherwise) {
  const char* value = std::getenv(variable);
  return value ? std::atoi(value) : otherwise;
}

/// A socket's abstract name: one that begins with a zero byte and is no file's.
struct Address {
  sockaddr_un address{};
  socklen_t bytes = sizeof(address);

  static constexpr size_t kBefore = offsetof(sockaddr_un, sun_path) + 1;
  explicit Address(const std::string& name = "") {
    address.sun_family = AF_UNIX;
    const size_t used = name.copy(address.sun_path + 1, sizeof(address.sun_path) - 1);
    if (!name.empty()) bytes = static_cast<socklen_t>(kBefore + used);
  }
  std::string name() const { return bytes > kBefore ? std::string(address.sun_path + 1, bytes - kBefore) : ""; }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&address); }
};

/// A socket with that name; -1 where it is refused.
int make_socket(const std::string& name) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  Address address(name);
  if (fd < 0 || bind(fd, address.get(), address.bytes) == 0) return fd;
  close(fd);
  return -1;
}

bool connect_to(int fd, const std::string& name) {
  Address address(name);
  return connect(fd, address.get(), address.bytes) == 0;
}

/// Whether the other end is a process of our user.
bool is_ours(int fd) {
  ucred peer{};
  socklen_t bytes = sizeof(peer);
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 && peer.uid == geteuid();
}

void make_readable(int event_fd) {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(event_fd, &one, sizeof(one));
}

sigset_t sigcont() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCONT);
  return set;
}

}  // namespace

std::optional<JobPlace> JobPlace::of_environment() {
  const char* name = std::getenv("PMIX_NAMESPACE");
  const char* server = std::getenv("PMIX_SERVER_TMPDIR");  // names may repeat, but not on one server
  JobPlace place;
  place.rank = number_from("PMIX_RANK", -1);
  place.size = number_from("OMPI_COMM_WORLD_SIZE", number_from("SLURM_STEP_NUM_TASKS", 1));
  if (!name || place.rank < 0 || place.rank >= place.size || place.size == 1) return std::nullopt;
  place.job = fmt::format("{}.{:x}.{}", name, std::hash<std::string>()(server ? server : ""), geteuid());
  const int nodes = number_from("SLURM_STEP_NUM_NODES", 0);
  place.local_size = number_from("OMPI_COMM_WORLD_LOCAL_SIZE", nodes == 1 ? place.size : 0);
  return place;
}

PeerWatch::PeerWatch(JobPlace place, std::function<bool()> told_to_end)
    : place_(std::move(place)), told_to_end_(std::move(told_to_end)) {
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  TRIREME_ASSERT(wake_fd_ >= 0, "no eventfd");
  const sigset_t awaited = sigcont();
  signal_fd_ = signalfd(-1, &awaited, SFD_CLOEXEC | SFD_NONBLOCK);
  meet_peers();
  sigset_t all, previous;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &previous);  // the thread takes no signal from those that are there for them
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &previous, nullptr);
}

PeerWatch::~PeerWatch() {
  stopping_ = true;
  make_readable(wake_fd_);
  thread_.join();
  say_goodbye();
  for (const auto& [fd, rank] : peers_) close(fd);
  for (const int fd : {listener_fd_, wake_fd_, signal_fd_})
    if (fd >= 0) close(fd);
  if (!call_.empty()) block_sigcont(false);
}

/// The socket of that rank; without one, what all names of the job begin with.
std::string PeerWatch::name_of(std::optional<int> rank) const {
  return fmt::format("trireme.{}.{}", place_.job, rank ? std::to_string(*rank) : "");
}

/// Listens first, then connects: of two ranks at least the later one finds the other.
void PeerWatch::meet_peers() {
  listener_fd_ = make_socket(name_of(place_.rank));
  if (listener_fd_ < 0 || listen(listener_fd_, place_.size) != 0) return;
  for (int peer = 0; peer < place_.size; ++peer) {
    if (peer == place_.rank) continue;
    const int fd = make_socket(fmt::format("{}>{}", name_of(place_.rank), peer));  // its name says who connects
    if (fd >= 0 && connect_to(fd, name_of(peer)) && is_ours(fd)) {
      peers_[fd] = peer;
      seen_.insert(peer);
    } else if (fd >= 0) {
      close(fd);
    }
  }
}

void PeerWatch::accept_peers() {
  while (true) {
    Address address;
    const int fd = accept4(listener_fd_, address.get(), &address.bytes, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    const std::string name = address.name(), prefix = name_of();
    int rank = -1;
    if (name.starts_with(prefix)) std::from_chars(name.data() + prefix.size(), name.data() + name.size(), rank);
    if (rank >= 0 && rank < place_.size && rank != place_.rank && is_ours(fd)) {
      peers_[fd] = rank;
      seen_.insert(rank);
    } else {
      close(fd);
    }
  }
}

/// A goodbye, or the end of a process.
void PeerWatch::read_peer(int fd) {
  char byte = 0;
  const ssize_t bytes = recv(fd, &byte, 1, MSG_DONTWAIT);
  if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) return;
  const int rank = peers_.at(fd);
  for (auto it = peers_.begin(); it != peers_.end();) {  // two that found each other have two connections
    if (it->second == rank) close(it->first);
    it = it->second == rank ? peers_.erase(it) : std::next(it);
  }
  if (bytes == 1 && byte == kGoodbye) return;
  lost_.insert(rank);
  if (!call_.empty()) end_process(fmt::format("rank {} {}", rank, kDied));
  if (!listener_.lost) return;  // enter() will see it
  listener_.lost(rank);
  if (lost_.size() == 1) report_at_ = Clock::now() + kReportPatience;
}

void PeerWatch::enter(std::string call, Milliseconds timeout) {
  block_sigcont(true);
  {
    std::lock_guard lock(mutex_);
    call_ = std::move(call);
    timeout_ = timeout;
    call_ends_ = Clock::now() + timeout;
    if (!lost_.empty()) end_process(fmt::format("rank {} {}", *lost_.begin(), kDied));
  }
  make_readable(wake_fd_);
}

void PeerWatch::watch(Listener listener) {
  {
    std::lock_guard lock(mutex_);
    call_.clear();
    call_ends_ = hint_ends_ = Clock::time_point::max();
    listener_ = std::move(listener);
  }
  make_readable(wake_fd_);
  block_sigcont(false);
}

void PeerWatch::block_sigcont(bool block) {
  const sigset_t set = sigcont();
  pthread_sigmask(block ? SIG_BLOCK : SIG_UNBLOCK, &set, nullptr);
}

/// The launcher may be ending the job; if nobody is missing, or soon, that is nothing to us.
void PeerWatch::take_hint(Milliseconds patience) {
  if (!call_.empty()) hint_ends_ = std::min<Clock::time_point>(hint_ends_, Clock::now() + patience);
}

void PeerWatch::check_deadlines() {
  const Clock::time_point now = Clock::now();
  if (!call_.empty() && told_to_end_ && told_to_end_()) take_hint(kToldToEndPatience);
  if (now >= hint_ends_) {
    const std::string unseen = unseen_text();
    if (!unseen.empty()) end_process(fmt::format("{} died before taking part, and this rank is told to end", unseen));
    hint_ends_ = Clock::time_point::max();
  }
  if (now >= call_ends_) {
    const std::string unseen = unseen_text();
    end_process(fmt::format("it did not end within {}{}", seconds_text(timeout_),
                            unseen.empty() ? "" : fmt::format("; {} did not take part", unseen)));
  }
  if (now >= report_at_) {
    const std::string report = taken_over_ ? "" : listener_.report();
    if (!report.empty()) fmt::print(stderr, "trireme: error: {}\n", report);
    report_at_ = taken_over_ || !report.empty() ? Clock::time_point::max() : now + kReportPatience;
  }
}

/// The ranks of this machine that have not been seen; "" when all have, or when it is not known.
std::string PeerWatch::unseen_text() const {
  const int unseen = place_.local_size - 1 - static_cast<int>(seen_.size());
  if (unseen <= 0 || listener_fd_ < 0) return "";
  if (place_.local_size < place_.size) return fmt::format("{} of this machine's {} ranks", unseen, place_.local_size);
  std::vector<int> ranks;
  for (int rank = 0; rank < place_.size; ++rank)
    if (rank != place_.rank && !seen_.contains(rank)) ranks.push_back(rank);
  return fmt::format("rank{} {}", ranks.size() > 1 ? "s" : "", fmt::join(ranks, ", "));
}

void PeerWatch::end_process(const std::string& why) {
  fmt::print(stderr, "trireme: error: rank {}: {} was given up: {}\n", place_.rank, call_, why);
  std::fflush(nullptr);
  say_goodbye();
  std::_Exit(1);
}

void PeerWatch::say_goodbye() {
  accept_peers();
  for (const auto& [fd, rank] : peers_) send(fd, &kGoodbye, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

PeerWatch::Milliseconds PeerWatch::pause() const {
  const Clock::time_point next = std::min({call_ends_, hint_ends_, report_at_});
  if (next == Clock::time_point::max()) return Milliseconds(-1);
  const auto pause = std::max(Milliseconds(0), std::chrono::ceil<Milliseconds>(next - Clock::now()));
  return call_.empty() ? pause : std::min<Milliseconds>(pause, kHintPeriod);
}

void PeerWatch::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    std::vector<pollfd> fds{{wake_fd_, POLLIN, 0}, {listener_fd_, POLLIN, 0}};
    // The signal is left where it is, so its descriptor would be ready for ever.
    const bool heeds = !call_.empty() && hint_ends_ == Clock::time_point::max();
    fds.push_back({heeds ? signal_fd_ : -1, POLLIN, 0});
    for (const auto& [fd, rank] : peers_) fds.push_back({fd, POLLIN, 0});
    const int timeout_ms = static_cast<int>(std::min<int64_t>(pause().count(), 1 << 30));
    lock.unlock();
    poll(fds.data(), fds.size(), timeout_ms);
    lock.lock();
    uint64_t ignored = 0;
    if (fds[0].revents) [[maybe_unused]] const ssize_t bytes = read(wake_fd_, &ignored, sizeof(ignored));
    if (stopping_) break;
    if (fds[1].revents) accept_peers();
    if (fds[2].revents) take_hint(kSigcontPatience);
    for (size_t i = 3; i < fds.size(); ++i)
      if (fds[i].revents && peers_.contains(fds[i].fd)) read_peer(fds[i].fd);
    check_deadlines();
  }
}

}  // namespace trireme::comm
