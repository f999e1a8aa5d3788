#include "launcher/signals.h"

#include <atomic>

#include "core/error.h"

namespace trireme {
namespace {

constexpr int kStop = 1;
constexpr int kCheckpoint = 2;
constexpr int kInUse = 4;

// A handler has no other way to reach us. Lock-free, so that it may be written to in one.
std::atomic<int> g_requests{0};
static_assert(std::atomic<int>::is_always_lock_free);

/// Async-signal-safe. All our signals are blocked while it runs.
void handle_signal(int signal) {
  if (signal == SIGUSR1) {
    g_requests.fetch_or(kCheckpoint);
  } else if ((g_requests.fetch_or(kStop) & kStop) && signal == SIGINT) {
    std::signal(SIGINT, SIG_DFL);  // the user is out of patience
    raise(SIGINT);                 // taken when this handler returns
  }
}

}  // namespace

sigset_t SignalRequests::signal_set() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : kSignals) sigaddset(&set, signal);
  return set;
}

SignalRequests::SignalRequests() {
  TRIREME_ASSERT(g_requests.exchange(kInUse) == 0, "a second SignalRequests");
  struct sigaction action {};
  action.sa_handler = handle_signal;
  action.sa_flags = SA_RESTART;
  const sigset_t ours = signal_set();
  action.sa_mask = ours;
  pthread_sigmask(SIG_BLOCK, &ours, &previous_mask_);
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &previous_[i]);
  thread_ = std::thread([this] {
    sigset_t others;
    sigfillset(&others);
    for (int signal : kSignals) sigdelset(&others, signal);
    pthread_sigmask(SIG_SETMASK, &others, nullptr);
    ended_.acquire();
  });
}

SignalRequests::~SignalRequests() {
  ended_.release();
  thread_.join();
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &previous_[i], nullptr);
  pthread_sigmask(SIG_SETMASK, &previous_mask_, nullptr);
  g_requests = 0;
}

bool SignalRequests::stop_requested() const {
  return (g_requests.load() & kStop) != 0;
}

bool SignalRequests::take_checkpoint_request() {
  return (g_requests.fetch_and(~kCheckpoint) & kCheckpoint) != 0;
}

}  // namespace trireme
