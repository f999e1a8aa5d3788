// Signals become requests; the earlier handlers come back; a second SIGINT ends the process.
#include "launcher/signals.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"

namespace trireme {
namespace {

TEST(Signals, StopSignalsAskForAStop) {
  for (int signal : {SIGINT, SIGTERM, SIGUSR2}) {
    SignalRequests requests;
    EXPECT_FALSE(requests.stop_requested());
    raise(signal);
    EXPECT_TRUE(requests.stop_requested());
    EXPECT_TRUE(requests.stop_requested());
    EXPECT_FALSE(requests.take_checkpoint_request());
  }
}

TEST(Signals, SigUsr1AsksForOneCheckpoint) {
  SignalRequests requests;
  raise(SIGUSR1);
  EXPECT_FALSE(requests.stop_requested());
  EXPECT_TRUE(requests.take_checkpoint_request());
  EXPECT_FALSE(requests.take_checkpoint_request());
  raise(SIGUSR1);
  EXPECT_TRUE(requests.take_checkpoint_request());
}

TEST(Signals, TheEarlierHandlersComeBack) {
  const auto earlier = std::signal(SIGUSR1, SIG_IGN);
  { SignalRequests requests; }
  EXPECT_EQ(std::signal(SIGUSR1, earlier), SIG_IGN);
}

TEST(Signals, OneAtATime) {
  SignalRequests requests;
  EXPECT_THROW(SignalRequests second, InternalError);
}

/// How a child ends that gets `signals` one after the other.
int status_after(std::initializer_list<int> signals) {
  const pid_t child = fork();
  if (child == 0) {
    SignalRequests requests;
    for (int signal : signals) raise(signal);
    _exit(7);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

TEST(Signals, ASecondSigIntEndsTheProcess) {
  const int once = status_after({SIGINT});
  EXPECT_TRUE(WIFEXITED(once));
  EXPECT_EQ(WEXITSTATUS(once), 7);
  for (auto signals : {std::initializer_list<int>{SIGINT, SIGINT}, {SIGTERM, SIGINT}}) {
    const int twice = status_after(signals);
    ASSERT_TRUE(WIFSIGNALED(twice));
    EXPECT_EQ(WTERMSIG(twice), SIGINT);
  }
  EXPECT_TRUE(
      WIFEXITED(status_after({SIGINT, SIGTERM})));  // a job manager repeats itself; that is no impatience
}

}  // namespace
}  // namespace trireme
