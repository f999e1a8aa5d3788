#include "launcher/supervise.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "core/error.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

constexpr int kNotStarted = 127;  // the shell's status for a command that can't be run
constexpr timespec kRequestRetry{.tv_sec = 0, .tv_nsec = 50'000'000};
constexpr timespec kLook{.tv_sec = 2, .tv_nsec = 0};
constexpr auto kMpirunPatience = std::chrono::seconds(10);       // after its last rank
constexpr auto kMpirunStartPatience = std::chrono::seconds(120);  // until its first one

sigset_t handled_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGCHLD}) sigaddset(&set, signal);
  return set;
}

/// Keeps the handled signals for sigwaitinfo() while it lives.
class BlockedSignals {
 public:
  BlockedSignals() {
    const sigset_t set = handled_signals();
    sigprocmask(SIG_BLOCK, &set, &previous_);
  }
  ~BlockedSignals() { restore(); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;
  void restore() const { sigprocmask(SIG_SETMASK, &previous_, nullptr); }

 private:
  sigset_t previous_;
};

/// In the child: becomes the command. Does not return.
[[noreturn]] void become(const LaunchPlan& plan, const BlockedSignals& blocked, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(kNotStarted);  // it died before prctl()
  blocked.restore();
  if (const int null = open("/dev/null", O_RDONLY); null >= 0)
    dup2(null, STDIN_FILENO);  // a terminal would stop it
  for (const auto& [name, value] : plan.environment) setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> words;
  for (const std::string& word : plan.command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  execv(words[0], words.data());
  fmt::print(stderr, "trireme: error: {} cannot be started: {}\n", plan.command[0], std::strerror(errno));
  _exit(kNotStarted);
}

int exit_status(int wait_status) {
  return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

/// What /proc/PID/status says of a process; zeros when it is gone.
struct ProcessStatus {
  pid_t parent = 0;
  uint64_t caught_signals = 0;  // bit n - 1: signal n has a handler
  char state = 'X';             // Z: a zombie
};

ProcessStatus read_status(const fs::path& process) {
  ProcessStatus status;
  std::ifstream in(process / "status");
  for (std::string key, rest; in >> key; std::getline(in, rest)) {
    if (key == "State:") in >> status.state;
    if (key == "PPid:") in >> status.parent;
    if (key == "SigCgt:") in >> std::hex >> status.caught_signals >> std::dec;
  }
  return status;
}

bool handles_requests(const ProcessStatus& status) {
  const auto bit = [](int signal) { return uint64_t{1} << (signal - 1); };
  const uint64_t wanted = bit(SIGUSR1) | bit(SIGUSR2);
  return (status.caught_signals & wanted) == wanted;
}

/// Calls visit(/proc folder, status) for each child of a process.
template <class F>
void for_each_child(pid_t parent, const F& visit) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const ProcessStatus status = read_status(entry.path());
    if (status.parent == parent) visit(entry.path(), status);
  }
}

/// Whether every rank has its handlers: without them SIGUSR1 and SIGUSR2 end a process. The ranks are the
/// child itself, or its children when it is mpirun (which forks them, so that one that still is mpirun's
/// program has mpirun's handlers for a moment and is none yet).
bool all_ranks_handle_requests(pid_t child, int ranks) {
  const fs::path child_folder = fs::path("/proc") / std::to_string(child);
  if (!handles_requests(read_status(child_folder))) return false;
  if (ranks == 1) return true;
  std::error_code error;
  const fs::path program = fs::read_symlink(child_folder / "exe", error);
  int ready = 0;
  for_each_child(child, [&](const fs::path& process, const ProcessStatus& status) {
    if (handles_requests(status) && fs::read_symlink(process / "exe", error) != program) ++ready;
  });
  return ready >= ranks;
}

/// Ends an mpirun that does not end after its ranks: Open MPI 4.1 may hang when a rank is killed while it starts.
class MpirunWatch {
 public:
  explicit MpirunWatch(pid_t mpirun) : mpirun_(mpirun), seen_at_(Clock::now()) {}
  void look() {
    bool alive = false;
    for_each_child(mpirun_, [&](const fs::path&, const ProcessStatus& status) {
      ranks_seen_ = true;
      alive |= status.state != 'Z';
    });
    if (alive) seen_at_ = Clock::now();
    if (Clock::now() - seen_at_ < (ranks_seen_ ? kMpirunPatience : kMpirunStartPatience)) return;
    fmt::print(stderr, "trireme launch: mpirun has no ranks and does not end: it is killed\n");
    kill(mpirun_, SIGKILL);
  }

 private:
  using Clock = std::chrono::steady_clock;
  pid_t mpirun_;
  bool ranks_seen_ = false;
  Clock::time_point seen_at_;
};

/// What the child gets for a signal to us.
int passed_on(int signal, bool& asked_to_stop) {
  if (signal != SIGINT && signal != SIGTERM) return signal;
  if (asked_to_stop) return SIGTERM;
  asked_to_stop = true;
  fmt::print(
      stderr,
      "trireme launch: asked the run to stop after this step with a checkpoint; once more ends it at once\n");
  return SIGUSR2;
}

}  // namespace

int run_supervised(const LaunchPlan& plan) {
  const BlockedSignals blocked;
  std::signal(SIGCHLD, SIG_DFL);  // who started us may ignore it, and then there is nothing to wait for
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) throw IoError(fmt::format("launch: cannot start a process: {}", std::strerror(errno)));
  if (child == 0) become(plan, blocked, parent);
  const sigset_t set = handled_signals();
  std::set<int> requests;  // SIGUSR1 and SIGUSR2 that wait until the ranks can handle them
  bool asked_to_stop = false;
  MpirunWatch mpirun(child);
  while (true) {
    if (!requests.empty() && all_ranks_handle_requests(child, plan.ranks)) {
      for (const int signal : requests) kill(child, signal);
      requests.clear();
    }
    const int signal = sigtimedwait(&set, nullptr, requests.empty() ? &kLook : &kRequestRetry);
    if (signal < 0) {  // EAGAIN: look at the ranks again; EINTR: stopped and continued
      if (plan.ranks > 1) mpirun.look();
      continue;
    }
    if (signal != SIGCHLD) {
      const int wanted = passed_on(signal, asked_to_stop);
      if (wanted == SIGTERM) {
        kill(child, wanted);
      } else {
        requests.insert(wanted);
      }
      continue;
    }
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child && (WIFEXITED(status) || WIFSIGNALED(status)))
      return exit_status(status);
  }
}

}  // namespace trireme
