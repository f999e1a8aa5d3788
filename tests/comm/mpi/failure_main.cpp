// A job whose rank 1 misbehaves as the argument says; failure_test.sh looks at how it ends.
//   mpirun -n N mpi_failure kill_before|kill_at_start|kill|kill_idle|exit|stop|loop|throw|mismatch ID
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <thread>

#include "comm/mpi/mpi_world.h"
#include "tests/comm/test_tensor.h"

using namespace trireme;

namespace {

constexpr int kBadStep = 3;
std::atomic<bool> g_told_to_end = false;

void misbehave(const std::string& how, Group& world) {
  std::this_thread::sleep_for(std::chrono::milliseconds(500));  // all others have finished the step before
  if (how.starts_with("kill")) std::raise(SIGKILL);
  if (how == "exit") _exit(0);
  if (how == "stop") std::raise(SIGSTOP);
  if (how == "throw") throw std::runtime_error("the disk is full");
  if (how == "mismatch") world.barrier("of rank 1 alone").wait();
  while (how == "loop") std::this_thread::sleep_for(std::chrono::seconds(1));
}

void train(const std::string& how, Group& world) {
  check(world.size() > 1, "more than one rank");
  if (how == "kill_at_start" && world.rank() == 1) std::raise(SIGKILL);
  world.barrier("start").wait();
  const Tensor gradients = make_tensor<float>(100'000, [](int64_t) { return 1; });
  for (int step = 1; step <= 5; ++step) {
    if (step == kBadStep && world.rank() == 1) misbehave(how, world);
    if (step == kBadStep && how == "kill_idle") std::this_thread::sleep_for(std::chrono::seconds(10));  // computes
    world.all_reduce(gradients, ReduceOp::average, "step " + std::to_string(step)).wait();
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::optional<MpiWorld> mpi;
  try {
    check(argc == 3, "a mode and an id");
    const char* rank = std::getenv("PMIX_RANK");
    if (argv[1] == std::string("kill_before") && rank && rank == std::string("1")) std::raise(SIGKILL);
    std::signal(SIGTERM, [](int) { g_told_to_end = true; });
    mpi.emplace(GroupOptions{.timeout_ms = 3000}, [] { return g_told_to_end.load(); });
    train(argv[1], mpi->world());
    mpi->finalize();
    return 0;
  } catch (const std::exception& e) {
    if (mpi) mpi->fail(e.what());
    std::fprintf(stderr, "error: %s\n", e.what());
    if (mpi) mpi->abort(1);
    return 1;
  }
}
