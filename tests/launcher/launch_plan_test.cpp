// The line that `trireme launch` starts, for machines of several kinds.
#include "launcher/launch_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

Machine machine_of(int cores) {
  return {.cores = cores,
          .may_bind = true,
          .is_root = false,
          .has_terminal = true,
          .terminal_columns = 0,
          .executable = "/opt/trireme",
          .mpirun = "/usr/bin/mpirun"};
}

std::string line_of(int ranks, const Machine& machine, int threads = 0) {
  return to_shell_line(
      plan_launch({.ranks = ranks, .threads = threads, .train_arguments = {"a.yaml"}}, machine));
}

TEST(LaunchPlan, RanksThatFillTheMachineAreBound) {
  EXPECT_EQ(line_of(2, machine_of(8)),
            "OMP_NUM_THREADS=4 TRIREME_TERMINAL=1 /usr/bin/mpirun -n 2 --host localhost:2 --map-by slot:PE=4 "
            "--bind-to core "
            "/opt/trireme train a.yaml");
  EXPECT_THAT(line_of(3, machine_of(8)), HasSubstr("slot:PE=2 --bind-to core"));
}

TEST(LaunchPlan, OthersAreNotBound) {
  EXPECT_THAT(line_of(2, machine_of(8), 1), HasSubstr("OMP_NUM_THREADS=1 "));
  EXPECT_THAT(line_of(2, machine_of(8), 1), HasSubstr("--bind-to none"));
  Machine container = machine_of(2);
  container.may_bind = false;
  EXPECT_THAT(line_of(2, container), HasSubstr("--bind-to none"));
}

TEST(LaunchPlan, MoreRanksThanCoresYieldWhileTheyWait) {
  const LaunchPlan plan = plan_launch({.ranks = 4, .threads = 0, .train_arguments = {}}, machine_of(2));
  const std::string line = to_shell_line(plan);
  EXPECT_THAT(line, HasSubstr("OMP_NUM_THREADS=1 "));
  EXPECT_THAT(line, HasSubstr("OMP_WAIT_POLICY=passive"));
  EXPECT_THAT(line, HasSubstr("--bind-to none --mca mpi_yield_when_idle 1"));
  ASSERT_EQ(plan.notes.size(), 1u);
  EXPECT_THAT(plan.notes[0], HasSubstr("4 ranks x 1 threads share 2 cores"));
}

TEST(LaunchPlan, OneRankNeedsNoMpirun) {
  Machine machine = machine_of(8);
  machine.mpirun.reset();
  EXPECT_EQ(line_of(1, machine), "OMP_NUM_THREADS=8 TRIREME_TERMINAL=1 /opt/trireme train a.yaml");
  try {
    line_of(2, machine);
    FAIL() << "planned without mpirun";
  } catch (const ConfigError& e) {
    EXPECT_THAT(e.what(), HasSubstr("openmpi-bin"));
  }
}

TEST(LaunchPlan, RanksAreToldOfTheTerminal) {
  Machine machine = machine_of(2);
  machine.terminal_columns = 80;
  EXPECT_THAT(line_of(2, machine), HasSubstr("TRIREME_TERMINAL=1 COLUMNS=80 "));
  machine.has_terminal = false, machine.terminal_columns = 0;
  EXPECT_THAT(line_of(2, machine), HasSubstr("TRIREME_TERMINAL=0 /usr/bin/mpirun"));
}

TEST(LaunchPlan, RootIsAllowedWithANote) {
  Machine machine = machine_of(2);
  EXPECT_THAT(plan_launch({.ranks = 2, .threads = 0, .train_arguments = {}}, machine).notes, IsEmpty());
  EXPECT_THAT(line_of(2, machine), Not(HasSubstr("root")));
  machine.is_root = true;
  EXPECT_EQ(plan_launch({.ranks = 2, .threads = 0, .train_arguments = {}}, machine).notes.size(), 1u);
  EXPECT_THAT(line_of(2, machine), HasSubstr("mpirun --allow-run-as-root -n 2"));
}

TEST(LaunchPlan, TheLineIsQuotedForTheShell) {
  const LaunchPlan plan{
      .environment = {{"A", "b c"}}, .command = {"x", "it's", "", "*.bin", "a=b"}, .notes = {}};
  EXPECT_EQ(to_shell_line(plan), R"(A='b c' x 'it'\''s' '' '*.bin' a=b)");
}

TEST(LaunchPlan, ThisMachineHasACoreAndThisProgram) {
  const Machine machine = detect_machine();
  EXPECT_GE(machine.cores, 1);
  EXPECT_THAT(machine.executable.filename().string(), StartsWith("launcher_tests"));
  EXPECT_TRUE(find_program("sh"));
  EXPECT_FALSE(find_program("no-such-program"));
}

}  // namespace
}  // namespace trireme
