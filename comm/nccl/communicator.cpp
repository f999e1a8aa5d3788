#include "comm/nccl/communicator.h"

#include <fmt/format.h>

#include <exception>
#include <thread>

#include "comm/monitor.h"
#include "core/backend/cuda/check.h"

namespace trireme::comm {
namespace {

constexpr auto kFinalizePatience = std::chrono::seconds(1), kReleasePatience = std::chrono::seconds(5);
constexpr auto kPause = std::chrono::microseconds(200);

/// The stream belongs to the device that is current when it is made.
int select(int device) {
  cuda::check(cudaSetDevice(device), "cudaSetDevice");
  return device;
}

}  // namespace

void check_nccl(ncclResult_t result, std::string_view what) {
  if (result == ncclSuccess || result == ncclInProgress) [[likely]]
    return;
  const char* details = ncclGetLastError(nullptr);
  throw CommError(fmt::format("{}: NCCL: {}{}{} (NCCL_DEBUG=INFO prints more)", what, ncclGetErrorString(result),
                              details && *details ? ": " : "", details ? details : ""));
}

ncclUniqueId new_nccl_id() {
  ncclUniqueId id;
  check_nccl(ncclGetUniqueId(&id), "a meeting point for GPUs");
  return id;
}

Communicator::Communicator(std::string purpose, const ncclUniqueId& id, int rank, int size, const NcclSettings& settings)
    : purpose_(std::move(purpose)),
      device_(select(settings.device)),
      timeout_(settings.timeout_ms),
      begin_(Clock::now()),
      stream_(device_, cuda::StreamPriority::high) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  if (settings.ctas > 0) config.minCTAs = config.maxCTAs = settings.ctas;
  const ncclResult_t result = ncclCommInitRankConfig(&comm_, size, id, rank, &config);
  try {
    check_nccl(result, fmt::format("connecting the GPUs for {}", purpose_));
  } catch (const CommError&) {
    abort();
    throw;
  }
}

Communicator::~Communicator() {
  if (comm_ && std::uncaught_exceptions() == 0 && connected_ && !broken_ && finalize()) release(&ncclCommDestroy);
  abort();
  if (released_.valid()) released_.wait_for(kReleasePatience);
}

/// What frees a communicator waits for the device, so for whatever else runs there and may hang: it has a thread of its
/// own, which nobody has to wait for.
void Communicator::release(ncclResult_t (*call)(ncclComm_t)) noexcept {
  try {
    std::promise<void> done;
    released_ = done.get_future();
    std::thread([call, comm = comm_, device = device_, done = std::move(done)]() mutable {
      cudaSetDevice(device);
      call(comm);
      done.set_value();
    }).detach();
  } catch (const std::exception&) {  // no more threads: it stays until the process ends
  }
  comm_ = nullptr;
}

/// Everything that was queued is done, and connections are closed; false when that takes too long.
bool Communicator::finalize() noexcept {
  cudaSetDevice(device_);
  const ncclResult_t begun = ncclCommFinalize(comm_);
  if (begun != ncclSuccess && begun != ncclInProgress) return false;
  for (const Clock::time_point deadline = Clock::now() + kFinalizePatience; Clock::now() < deadline;
       std::this_thread::sleep_for(kPause)) {
    ncclResult_t state = ncclSuccess;
    if (ncclCommGetAsyncError(comm_, &state) != ncclSuccess) return false;
    if (state != ncclInProgress) return state == ncclSuccess;
  }
  return false;
}

void Communicator::abort() noexcept {
  if (comm_) release(&ncclCommAbort);
}

bool Communicator::is_ready() {
  TRIREME_ASSERT(comm_, "the communicator was aborted");
  ncclResult_t state = ncclSuccess;
  ncclResult_t result = ncclCommGetAsyncError(comm_, &state);
  if (result == ncclSuccess) result = state;
  broken_ = broken_ || (result != ncclSuccess && result != ncclInProgress);
  check_nccl(result, purpose_);
  return result == ncclSuccess;
}

bool Communicator::connected() {
  if (connected_) return true;
  connected_ = is_ready();
  if (!connected_ && Clock::now() - begin_ > timeout_)
    throw CommError(fmt::format("the GPUs for {} were not connected within {}; NCCL_DEBUG=INFO prints what NCCL waits for",
                                purpose_, seconds_text(timeout_)));
  return connected_;
}

void Communicator::launch(std::string_view what, const std::function<ncclResult_t(ncclComm_t, cudaStream_t)>& call) {
  TRIREME_ASSERT(comm_ && connected_, "a call before the communicator is connected");
  cuda::check(cudaSetDevice(device_), "cudaSetDevice");
  const ncclResult_t result = call(comm_, stream_.raw());
  broken_ = broken_ || (result != ncclSuccess && result != ncclInProgress);
  check_nccl(result, what);
}

}  // namespace trireme::comm
