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

#include "core/error.h"

namespace trireme {
namespace {

constexpr int kNotStarted = 127;  // the shell's status for a command that can't be run

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
  std::signal(SIGUSR1, SIG_IGN);                // until the command handles them
  std::signal(SIGUSR2, SIG_IGN);
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
  bool asked_to_stop = false;
  while (true) {
    const int signal = sigwaitinfo(&set, nullptr);
    if (signal < 0) continue;  // EINTR: stopped and continued
    if (signal != SIGCHLD) {
      kill(child, passed_on(signal, asked_to_stop));
      continue;
    }
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child && (WIFEXITED(status) || WIFSIGNALED(status)))
      return exit_status(status);
  }
}

}  // namespace trireme
