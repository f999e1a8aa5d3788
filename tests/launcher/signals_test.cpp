// Signals become requests; the earlier handlers come back; a second SIGINT ends the process.
#include "launcher/signals.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>

#include "core/error.h"

namespace trireme {
namespace {

using namespace std::chrono_literals;

/// To the process, as a user or a job manager sends it.
void send(int signal) { kill(getpid(), signal); }

bool eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

TEST(Signals, StopSignalsAskForAStop) {
  for (int signal : {SIGINT, SIGTERM, SIGUSR2}) {
    SignalRequests requests;
    EXPECT_FALSE(requests.stop_requested());
    send(signal);
    EXPECT_TRUE(eventually([&] { return requests.stop_requested(); }));
    EXPECT_TRUE(requests.stop_requested());
    EXPECT_FALSE(requests.take_checkpoint_request());
  }
}

TEST(Signals, SigUsr1AsksForOneCheckpoint) {
  SignalRequests requests;
  for (int time = 0; time < 2; ++time) {
    send(SIGUSR1);
    EXPECT_TRUE(eventually([&] { return requests.take_checkpoint_request(); }));
    EXPECT_FALSE(requests.stop_requested());
    EXPECT_FALSE(requests.take_checkpoint_request());
  }
}

TEST(Signals, TheEarlierHandlersComeBack) {
  const auto earlier = std::signal(SIGUSR1, SIG_IGN);
  { SignalRequests requests; }
  EXPECT_EQ(std::signal(SIGUSR1, earlier), SIG_IGN);
}

// Matrix products let the stack pointer point into the heap: a handler there would overwrite it.
TEST(Signals, ThreadsThatComputeAreNotInterrupted) {
  const auto blocked_here = [] {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    return sigismember(&mask, SIGUSR1) == 1 && sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGINT) == 1 &&
           sigismember(&mask, SIGUSR2) == 1;
  };
  ASSERT_FALSE(blocked_here());
  {
    SignalRequests requests;
    EXPECT_TRUE(blocked_here());
    bool in_a_thread = false;
    std::thread([&] { in_a_thread = blocked_here(); }).join();
    EXPECT_TRUE(in_a_thread);
  }
  EXPECT_FALSE(blocked_here());
}

TEST(Signals, OneAtATime) {
  SignalRequests requests;
  EXPECT_THROW(SignalRequests second, InternalError);
}

/// How a child ends that gets `signals` one after the other, and then has this long to end of them.
int status_after(std::initializer_list<int> signals, std::chrono::milliseconds patience) {
  const pid_t child = fork();
  if (child == 0) {
    SignalRequests requests;
    for (int signal : signals) {
      send(signal);
      eventually([&] { return requests.stop_requested(); });
    }
    std::this_thread::sleep_for(patience);
    _exit(7);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

TEST(Signals, ASecondSigIntEndsTheProcess) {
  const int once = status_after({SIGINT}, 0ms);
  EXPECT_TRUE(WIFEXITED(once));
  EXPECT_EQ(WEXITSTATUS(once), 7);
  for (auto signals : {std::initializer_list<int>{SIGINT, SIGINT}, {SIGTERM, SIGINT}}) {
    const int twice = status_after(signals, 10s);
    ASSERT_TRUE(WIFSIGNALED(twice));
    EXPECT_EQ(WTERMSIG(twice), SIGINT);
  }
  // A job manager repeats itself; that is no impatience.
  EXPECT_TRUE(WIFEXITED(status_after({SIGINT, SIGTERM}, 300ms)));
}

}  // namespace
}  // namespace trireme
