// The conformance table over ranks that are processes: `mpirun -n N mpi_conformance`. Exit status 0 when all
// hold.
#include <cstdio>

#include "comm/mpi/mpi_world.h"
#include "comm/staged_group.h"
#include "tests/comm/conformance.h"
#include "tests/comm/fake_device.h"
#include "tests/comm/host_view.h"
#include "tests/comm/test_tensor.h"

using namespace trireme;

/// On the world itself, and under a group of device memory.
static void run_cases(Group& world) {
  FakeDevice device(world.rank());
  const auto staged = view_from_host(comm::StagedGroup::make(world.duplicate("staged"), device), device);
  for (const ConformanceCase& conformance_case : conformance_cases()) {
    conformance_case.run(world);
    conformance_case.run(*staged);
    if (world.rank() == 0) std::printf("ok %s\n", std::string(conformance_case.name).c_str());
  }
}

int main(int argc, char** argv) {
  MpiWorld mpi({.timeout_ms = 60'000});
  Group& world = mpi.world();
  try {
    check(argc == 2 && world.size() == std::atoi(argv[1]), "the number of ranks is the argument");
    check(world.size() > 1, "more than one rank");
    check(MpiWorld::launched(), "launched by mpirun");
    check(mpi.local_rank() == world.rank() && mpi.local_size() == world.size(),
          "all ranks are on this machine");
    run_cases(world);
    mpi.finalize();
  } catch (const std::exception& e) {
    mpi.fail(e.what());
    std::fprintf(stderr, "%s\n", e.what());
    mpi.abort(1);
  }
}
