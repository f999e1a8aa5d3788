// Who is taken for lost: an end without a goodbye, and nothing else. Peers are objects of one process here, and a bare
// socket stands for one that dies; mpi/failure_test.sh kills real ones.
#include "comm/mpi/peer_watch.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <mutex>
#include <vector>

namespace trireme::comm {
namespace {

using namespace std::chrono_literals;

/// What a watch said.
class Record {
 public:
  PeerWatch::Listener listener() {
    return {[this](int rank) { add(fmt::format("lost {}", rank)); },
            [this] {
              add("asked for a report");
              return std::string("a report that a test asked for");
            }};
  }
  std::vector<std::string> after(std::chrono::milliseconds duration) {
    std::this_thread::sleep_for(duration);
    std::lock_guard lock(mutex_);
    return lines_;
  }
  /// What was said until there are `count` lines.
  std::vector<std::string> wait_for(size_t count) {
    for (int i = 0; i < 2000 && after(0ms).size() < count; ++i) std::this_thread::sleep_for(5ms);
    return after(0ms);
  }

 private:
  void add(std::string line) {
    std::lock_guard lock(mutex_);
    lines_.push_back(std::move(line));
  }
  std::mutex mutex_;
  std::vector<std::string> lines_;
};

JobPlace place(const std::string& test, int rank, int size) {
  return {fmt::format("{}.{}", test, getpid()), rank, size, size};
}

/// A connection to the rank `to`, as `place` would make it; it can end without a goodbye.
int connect_as(const JobPlace& place, int to) {
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  const auto address_of = [](const std::string& name, sockaddr_un& address) {
    address.sun_family = AF_UNIX;
    name.copy(address.sun_path + 1, sizeof(address.sun_path) - 1);
    return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  };
  sockaddr_un mine{}, theirs{};
  const socklen_t mine_bytes = address_of(fmt::format("trireme.{}.{}>{}", place.job, place.rank, to), mine);
  const socklen_t their_bytes = address_of(fmt::format("trireme.{}.{}", place.job, to), theirs);
  EXPECT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&mine), mine_bytes), 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&theirs), their_bytes), 0);
  return fd;
}

TEST(PeerWatch, AnEndWithoutAGoodbyeIsALoss) {
  Record record;
  PeerWatch watch(place("loss", 0, 3));
  watch.watch(record.listener());
  const int fd = connect_as(place("loss", 2, 3), 0);
  EXPECT_THAT(record.after(50ms), testing::IsEmpty());
  close(fd);
  EXPECT_THAT(record.wait_for(2), testing::ElementsAre("lost 2", "asked for a report"));
}

TEST(PeerWatch, WhoReportsALossHimselfIsNotRepeated) {
  Record record;
  PeerWatch watch(place("take over", 0, 2));
  watch.watch(record.listener());
  watch.take_over();
  close(connect_as(place("take over", 1, 2), 0));
  EXPECT_THAT(record.wait_for(1), testing::ElementsAre("lost 1"));
  EXPECT_THAT(record.after(600ms), testing::ElementsAre("lost 1"));
}

TEST(PeerWatch, AGoodbyeIsNoLoss) {
  Record records[3];
  PeerWatch first(place("goodbye", 0, 3));
  first.watch(records[0].listener());
  {
    PeerWatch second(place("goodbye", 1, 3)), third(place("goodbye", 2, 3));
    second.watch(records[1].listener());
    third.watch(records[2].listener());
  }
  for (Record& record : records) EXPECT_THAT(record.after(50ms), testing::IsEmpty());
}

TEST(PeerWatch, OtherJobsAndStrangersAreNotHeard) {
  Record record;
  PeerWatch watch(place("own", 0, 2));
  watch.watch(record.listener());
  PeerWatch other(place("other", 1, 2));
  JobPlace stranger = place("own", 7, 2);  // no such rank
  close(connect_as(stranger, 0));
  stranger = place("own", 0, 2);  // our own
  close(connect_as(stranger, 0));
  EXPECT_THAT(record.after(50ms), testing::IsEmpty());
}

// As after a crash of an earlier job: somebody holds the name.
TEST(PeerWatch, ANameThatIsTakenIsNoError) {
  Record record;
  PeerWatch watch(place("taken", 0, 2)), again(place("taken", 0, 2));
  again.watch(record.listener());
  EXPECT_THAT(record.after(0ms), testing::IsEmpty());
}

TEST(PeerWatchDeathTest, ALossDuringABlockingCallEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto lose_one = [] {
    PeerWatch watch(place("call", 0, 2));
    watch.enter("MPI_Init", 20s);
    close(connect_as(place("call", 1, 2), 0));
    std::this_thread::sleep_for(20s);
  };
  EXPECT_EXIT(lose_one(), testing::ExitedWithCode(1),
              "trireme: error: rank 0: MPI_Init was given up: rank 1 died: its process is gone");
}

TEST(PeerWatchDeathTest, ABlockingCallHasATimeout) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto hang = [] {
    PeerWatch watch(place("hang", 0, 3)), other(place("hang", 1, 3));
    watch.enter("MPI_Init", 100ms);
    std::this_thread::sleep_for(20s);
  };
  EXPECT_EXIT(hang(), testing::ExitedWithCode(1),
              "rank 0: MPI_Init was given up: it did not end within 0.1 s; rank 2 did not take part");
}

TEST(PeerWatchDeathTest, WhoIsToldToEndNamesThoseThatNeverCame) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto be_told = [](bool by_sigcont) {
    PeerWatch watch(place("told", 0, 2), [=] { return !by_sigcont; });
    watch.enter("MPI_Init", 20s);
    if (by_sigcont) kill(getpid(), SIGCONT);
    std::this_thread::sleep_for(20s);
  };
  for (const bool by_sigcont : {false, true})
    EXPECT_EXIT(be_told(by_sigcont), testing::ExitedWithCode(1), "MPI_Init was given up: rank 1 died before taking part");
}

TEST(PeerWatch, ThePlaceIsReadFromTheLaunchersEnvironment) {
  const auto set = [](const char* name, const char* value) { setenv(name, value, 1); };
  unsetenv("PMIX_NAMESPACE");
  EXPECT_FALSE(JobPlace::of_environment());
  set("PMIX_NAMESPACE", "slurm.pmix.7.0");
  set("PMIX_RANK", "3");
  set("SLURM_STEP_NUM_TASKS", "4");
  set("SLURM_STEP_NUM_NODES", "2");
  const auto several_nodes = JobPlace::of_environment();
  ASSERT_TRUE(several_nodes);
  EXPECT_EQ(several_nodes->rank, 3);
  EXPECT_EQ(several_nodes->size, 4);
  EXPECT_EQ(several_nodes->local_size, 0);
  set("SLURM_STEP_NUM_NODES", "1");
  EXPECT_EQ(JobPlace::of_environment()->local_size, 4);
  set("OMPI_COMM_WORLD_SIZE", "8");
  set("OMPI_COMM_WORLD_LOCAL_SIZE", "5");
  EXPECT_EQ(JobPlace::of_environment()->size, 8);
  EXPECT_EQ(JobPlace::of_environment()->local_size, 5);
  for (const char* name : {"PMIX_NAMESPACE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES",
                           "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"})
    unsetenv(name);
}

}  // namespace
}  // namespace trireme::comm
