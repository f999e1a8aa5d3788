#include "comm/nccl/communicator.h"

#include <fmt/format.h>

#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>

#include "comm/monitor.h"
#include "core/backend/cuda/check.h"

namespace trireme::comm {
namespace {

constexpr auto kReleasePatience = std::chrono::seconds(5);
constexpr auto kPause = std::chrono::microseconds(200);

ncclConfig_t make_config(int ctas, bool blocking) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = blocking ? 1 : 0;
  config.splitShare = 1;
  if (ctas > 0) config.minCTAs = config.maxCTAs = ctas;
  return config;
}

bool is_set_to_0(const char* variable) {
  const char* value = std::getenv(variable);
  return value && std::string_view(value) == "0";
}

/// Whether communicators have all connections of collectives once they are made.
bool connects_at_once() { return is_set_to_0("NCCL_RUNTIME_CONNECT"); }

/// Held while one is freed. Of ranks that are threads of one process, the last one to free a communicator frees all of them,
/// and what they share with others; several at once were seen to end in a crash now and then (NCCL 2.28). None of the calls
/// waits for a peer.
std::mutex& freeing_mutex() {
  static std::mutex mutex;
  return mutex;
}

std::string error_text(ncclResult_t result, std::string_view what) {
  const char* details = ncclGetLastError(nullptr);
  return fmt::format("{}: NCCL: {}{}{} (NCCL_DEBUG=INFO prints more)", what, ncclGetErrorString(result),
                     details && *details ? ": " : "", details ? details : "");
}

/// The stream belongs to the device that is current when it is made.
int select(int device) {
  cuda::check(cudaSetDevice(device), "cudaSetDevice");
  return device;
}

}  // namespace

void check_nccl(ncclResult_t result, std::string_view what) {
  if (result != ncclSuccess && result != ncclInProgress) [[unlikely]]
    throw CommError(error_text(result, what));
}

ncclUniqueId new_nccl_id() {
  ncclUniqueId id;
  check_nccl(ncclGetUniqueId(&id), "a meeting point for GPUs");
  return id;
}

Communicator::Communicator(std::string purpose, const ncclUniqueId& id, int rank, int size, const NcclSettings& settings)
    : purpose_(std::move(purpose)),
      device_(select(settings.device)),
      ctas_(settings.ctas),
      timeout_(settings.timeout_ms),
      begin_(Clock::now()),
      stream_(device_, cuda::StreamPriority::high) {
  ncclConfig_t config = make_config(ctas_, /*blocking=*/false);
  const ncclResult_t result = ncclCommInitRankConfig(&comms_->first, size, id, rank, &config);
  try {
    check_nccl(result, fmt::format("connecting the GPUs for {}", purpose_));
  } catch (const CommError&) {
    abort();
    throw;
  }
}

Communicator::~Communicator() {
  if (comms_ && std::uncaught_exceptions() == 0 && stage_ == Stage::connected && !broken_) release(&Communicator::destroy);
  abort();
  if (released_.valid()) released_.wait_for(kReleasePatience);
}

/// Operations are done. Where the end takes too long, it is forced.
void Communicator::destroy(const Comms& comms) {
  if (comms.split) {
    const std::lock_guard lock(freeing_mutex());
    ncclCommDestroy(comms.split);
  }
  const Clock::time_point deadline = Clock::now() + kReleasePatience;
  ncclResult_t state = ncclCommFinalize(comms.first);
  while (state == ncclInProgress && Clock::now() < deadline) {
    std::this_thread::sleep_for(kPause);
    if (const ncclResult_t asked = ncclCommGetAsyncError(comms.first, &state); asked != ncclSuccess) state = asked;
  }
  if (state != ncclSuccess) return static_cast<void>(ncclCommAbort(comms.first));
  const std::lock_guard lock(freeing_mutex());
  ncclCommDestroy(comms.first);
}

/// Both look at the same mark that tells them to end.
void Communicator::abort(const Comms& comms) {
  if (comms.split) ncclCommAbort(comms.split);
  ncclCommAbort(comms.first);
}

/// What frees communicators waits for the device, so for whatever else runs there and may hang: it has a thread of its
/// own, which nobody has to wait for.
void Communicator::release(void (*end)(const Comms&)) noexcept {
  try {
    std::promise<void> done;
    released_ = done.get_future();
    std::thread([end, comms = comms_, device = device_, done = std::move(done)]() mutable {
      cudaSetDevice(device);
      end(*comms);
      done.set_value();
    }).detach();
  } catch (const std::exception&) {  // no more threads: they stay until the process ends
  }
  comms_ = nullptr;
}

void Communicator::abort() noexcept {
  if (comms_) release(&Communicator::abort);
}

bool Communicator::is_ready() {
  TRIREME_ASSERT(comms_, "the communicator was aborted");
  const auto ask = [](ncclComm_t comm) {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm, &state);
    return asked == ncclSuccess ? state : asked;
  };
  ncclResult_t result = ask(comms_->first);
  if (result == ncclSuccess && stage_ == Stage::connected && comms_->split) result = ask(comms_->split);
  broken_ = broken_ || (result != ncclSuccess && result != ncclInProgress);
  check_nccl(result, purpose_);
  return result == ncclSuccess;
}

void Communicator::begin_to_split() {
  cuda::check(cudaSetDevice(device_), "cudaSetDevice");
  int rank = 0;
  check_nccl(ncclCommUserRank(comms_->first, &rank), purpose_);
  ncclConfig_t config = make_config(ctas_, /*blocking=*/true);
  check_nccl(ncclCommSplit(comms_->first, /*color=*/0, /*key=*/rank, &comms_->split, &config), purpose_);
  stage_ = Stage::splitting;
}

bool Communicator::connected() {
  if (stage_ == Stage::connected) return true;
  bool ready = is_ready();
  if (ready && stage_ == Stage::connecting && connects_at_once()) {
    begin_to_split();
    ready = is_ready();
  }
  if (ready) stage_ = Stage::connected;
  if (!ready && Clock::now() - begin_ > timeout_)
    throw CommError(fmt::format("the GPUs for {} were not connected within {}; NCCL_DEBUG=INFO prints what NCCL waits for",
                                purpose_, seconds_text(timeout_)));
  return ready;
}

/// Where NCCL registers the memory of calls that are captured, ranks have to wait for each other meanwhile.
bool Communicator::can_capture(OpKind kind) const {
  return comms_ && comms_->split && stage_ == Stage::connected && has_made(kind) && is_set_to_0("NCCL_GRAPH_REGISTER");
}

void Communicator::capture(std::string_view what, const std::function<ncclResult_t(ncclComm_t, cudaStream_t)>& call) {
  cuda::check(cudaSetDevice(device_), "cudaSetDevice");
  const ncclResult_t result = call(comms_->split, stream_.raw());
  if (result != ncclSuccess) throw IoError(error_text(result, what));
}

void Communicator::launch(OpKind kind, std::string_view what,
                          const std::function<ncclResult_t(ncclComm_t, cudaStream_t)>& call) {
  TRIREME_ASSERT(comms_ && stage_ == Stage::connected, "a call before the communicator is connected");
  cuda::check(cudaSetDevice(device_), "cudaSetDevice");
  const bool may_connect = !has_made(kind);
  kinds_ |= bit_of(kind);
  const ncclResult_t result = call(may_connect || !comms_->split ? comms_->first : comms_->split, stream_.raw());
  broken_ = broken_ || (result != ncclSuccess && result != ncclInProgress);
  check_nccl(result, what);
}

}  // namespace trireme::comm
