#include "comm/mpi/mpi_world.h"

#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "comm/channel.h"
#include "comm/comm_engine.h"
#include "comm/direct_group.h"
#include "comm/host_tensor.h"
#include "comm/mpi/mpi_transport.h"
#include "comm/mpi/peer_watch.h"

namespace trireme {
namespace {

using comm::check_mpi;

constexpr auto kLeavePatience = std::chrono::milliseconds(500);
constexpr std::chrono::milliseconds kShortestInitTimeout{30'000};  // starting takes long on a busy machine
constexpr size_t kHostNameBytes = 64;

int number_from(const char* variable) {
  const char* value = std::getenv(variable);
  return value ? std::atoi(value) : 0;
}

/// MPI_Init and a communicator of our own, whose errors are returned.
MPI_Comm init_mpi() {
  int provided = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_SERIALIZED)
    throw CommError(
        "this MPI library has no MPI_THREAD_SERIALIZED; use one built with threads (Debian's Open MPI is)");
  MPI_Comm communicator = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &communicator), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(communicator, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  int* max_tag = nullptr;
  int found = 0;
  check_mpi(MPI_Comm_get_attr(communicator, MPI_TAG_UB, &max_tag, &found), "MPI_Comm_get_attr");
  constexpr uint32_t kMaxTag = (comm::Channel::kMaxGroups << comm::Channel::kStreamBits) - 1;
  if (!found || static_cast<uint32_t>(*max_tag) < kMaxTag)
    throw CommError(
        fmt::format("this MPI library's largest tag is {}, {} is needed", found ? *max_tag : 0, kMaxTag));
  return communicator;
}

}  // namespace

bool MpiWorld::launched() {
  return std::getenv("OMPI_COMM_WORLD_SIZE") || std::getenv("PMIX_RANK") ||
         number_from("SLURM_STEP_NUM_TASKS") > 1;
}

MpiWorld::MpiWorld(const GroupOptions& options, std::function<bool()> told_to_end) {
  if (const auto place = comm::JobPlace::of_environment())
    watch_ = std::make_unique<comm::PeerWatch>(*place, std::move(told_to_end));
  enter("MPI_Init", options.timeout_ms);
  engine_ = std::make_unique<comm::CommEngine>(std::make_unique<comm::MpiTransport>(init_mpi()));
  if (watch_)
    watch_->watch({[this](int rank) { engine_->lose(rank); }, [this] { return engine_->loss_report(); }});
  world_ = comm::make_world_group(*engine_, options);
  const int num_tasks = number_from("SLURM_STEP_NUM_TASKS");
  if (num_tasks > 1 && world_->size() == 1)
    throw ConfigError(fmt::format(
        "srun started {} tasks, but MPI sees one: start them with `srun --mpi=pmix`, or by mpirun",
        num_tasks));
  find_neighbours();
}

MpiWorld::~MpiWorld() = default;

void MpiWorld::enter(const char* call, int64_t timeout_ms) {
  if (watch_) watch_->enter(call, std::max(kShortestInitTimeout, std::chrono::milliseconds(timeout_ms)));
}

/// Who is on which machine.
void MpiWorld::find_neighbours() {
  std::array<uint8_t, kHostNameBytes> mine{};
  gethostname(reinterpret_cast<char*>(mine.data()), mine.size() - 1);
  std::vector<uint8_t> all(static_cast<size_t>(world_->size()) * kHostNameBytes);
  world_->all_gather(wrap_host(std::span<uint8_t>(mine)), wrap_host(std::span(all)), "host names").wait();
  for (int rank = 0; rank < world_->size(); ++rank)
    hostnames_.emplace_back(reinterpret_cast<const char*>(all.data()) +
                            static_cast<size_t>(rank) * kHostNameBytes);
  const std::string& here = hostnames_[static_cast<size_t>(world_->rank())];
  local_size_ = static_cast<int>(std::count(hostnames_.begin(), hostnames_.end(), here));
  local_rank_ = static_cast<int>(std::count(hostnames_.begin(), hostnames_.begin() + world_->rank(), here));
}

void MpiWorld::fail(const std::string& reason) {
  if (engine_) engine_->fail(reason);
}

void MpiWorld::leave() {
  if (watch_) watch_->take_over();
  if (engine_) engine_->leave(kLeavePatience);
}

void MpiWorld::abort(int exit_status) {
  leave();
  watch_.reset();
  world_.reset();
  engine_.reset();
  MPI_Abort(MPI_COMM_WORLD, exit_status);
  std::_Exit(exit_status);
}

void MpiWorld::finalize() {
  engine_->stop_beats();
  world_->barrier("end of the job").wait();
  engine_->close();
  enter("MPI_Finalize", world_->options().timeout_ms);
  world_.reset();
  engine_.reset();
  check_mpi(MPI_Finalize(), "MPI_Finalize");
  watch_.reset();
}

}  // namespace trireme
