#include "launcher/supervise.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
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
};

ProcessStatus read_status(const fs::path& process) {
  ProcessStatus status;
  std::ifstream in(process / "status");
  for (std::string key, rest; in >> key; std::getline(in, rest)) {
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
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const ProcessStatus status = read_status(entry.path());
    if (status.parent == child && handles_requests(status) && fs::read_symlink(entry.path() / "exe", error) != program)
      ++ready;
  }
  return ready >= ranks;
}

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
  while (true) {
    if (!requests.empty() && all_ranks_handle_requests(child, plan.ranks)) {
      for (const int signal : requests) kill(child, signal);
      requests.clear();
    }
    const int signal = requests.empty() ? sigwaitinfo(&set, nullptr) : sigtimedwait(&set, nullptr, &kRequestRetry);
    if (signal < 0) continue;  // EAGAIN: look at the ranks again; EINTR: stopped and continued
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
