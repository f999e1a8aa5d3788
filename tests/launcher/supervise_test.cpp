// Children of the launcher: exit status, environment, and signals as a real process gets them.
#include "launcher/supervise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "tests/temporary_folder.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;

LaunchPlan shell(const std::string& script) {
  return {.environment = {{"GREETING", "hello"}}, .command = {"/bin/sh", "-c", script}, .notes = {}};
}

TEST(Supervise, GivesBackTheExitStatus) {
  EXPECT_EQ(run_supervised(shell("exit 0")), 0);
  EXPECT_EQ(run_supervised(shell("exit 37")), 37);
  EXPECT_EQ(run_supervised(shell("kill -9 $$")), 128 + SIGKILL);
  EXPECT_EQ(run_supervised({.environment = {}, .command = {"/no/such/program"}, .notes = {}}), 127);
}

TEST(Supervise, SetsTheEnvironmentAndHasAGroupOfItsOwn) {
  EXPECT_EQ(run_supervised(shell("test \"$GREETING\" = hello")), 0);
  EXPECT_EQ(run_supervised(shell("test $(cut -d' ' -f5 /proc/$$/stat) = $$")), 0);
}

TEST(Supervise, EndsAnMpirunThatHangsAfterItsRanks) {
  const LaunchPlan hangs{.environment = {},
                         .command = {"/usr/bin/perl", "-e", "sleep(fork() ? 60 : 3);"},  // the child is a "rank"
                         .notes = {},
                         .ranks = 2};
  EXPECT_EQ(run_supervised(hangs), 128 + SIGKILL);
}

/// Runs the launcher's part in a process of its own, whose child writes down every signal it gets.
class SignalledChild : public ::testing::Test {
 protected:
  void start() {
    // Not a shell: that could not trap signals that are ignored when it starts. Ready when the log is there.
    const std::string script = R"(
      sub say { open(my $log, '>>', $ARGV[0]); print $log shift; }
      for my $name ('USR1', 'USR2', 'INT') { $SIG{$name} = sub { say("$name\n"); }; }
      $SIG{TERM} = sub { say("TERM\n"); exit 5; };
      say('');
      select(undef, undef, undef, 1) while 1;)";
    launcher_ = fork();
    if (launcher_ == 0) {
      setpgid(0, 0);
      _exit(run_supervised(
          {.environment = {}, .command = {"/usr/bin/perl", "-e", script, log()}, .notes = {}}));
    }
    wait_for_lines(0);
  }
  std::string log() const { return folder_ / "log"; }
  std::vector<std::string> lines() const {
    std::ifstream in(log());
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  void wait_for_lines(size_t count) const {
    for (int i = 0; i < 500; ++i) {
      if (std::filesystem::exists(log()) && lines().size() >= count) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    FAIL() << "waited for " << count << " lines";
  }
  int wait_for_end() const {
    int status = 0;
    waitpid(launcher_, &status, 0);
    return status;
  }

  TemporaryFolder folder_;
  pid_t launcher_ = 0;
};

TEST_F(SignalledChild, GetsEachSignalOnce) {
  start();
  kill(launcher_, SIGUSR1);
  wait_for_lines(1);
  kill(-launcher_, SIGINT);  // as a terminal does: to the whole group
  wait_for_lines(2);
  kill(launcher_, SIGTERM);
  const int status = wait_for_end();
  EXPECT_THAT(lines(), ElementsAre("USR1", "USR2", "TERM"));
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 5);
}

TEST_F(SignalledChild, EndsWhenTheLauncherIsKilled) {
  start();
  kill(launcher_, SIGKILL);
  wait_for_end();
  wait_for_lines(1);
  EXPECT_THAT(lines(), ElementsAre("TERM"));
}

}  // namespace
}  // namespace trireme
