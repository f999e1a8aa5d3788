// Communicator: one of NCCL's, with the stream that its operations run on. NCCL is used without blocking
// (ncclConfig_t::blocking = 0): every call returns at once, and it is asked later how the call went; so whatever the peers
// do, no thread hangs in it, and the communicator can be aborted at any time. The price is NCCL's thread that makes each
// launch, some tens of microseconds of the host's time.
// https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/usage/communicators.html
#pragma once

#include <nccl.h>

#include <functional>
#include <future>
#include <string>

#include "comm/operation.h"
#include "core/backend/cuda/cuda_backend.h"

namespace trireme::comm {

/// CommError "`what`: <NCCL's text>" unless `result` is success, or the call is still in progress.
void check_nccl(ncclResult_t result, std::string_view what);

ncclUniqueId new_nccl_id();

/// What a communicator is made with.
struct NcclSettings {
  int device = 0;
  int ctas = 0;  // 0: NCCL's choice
  int64_t timeout_ms = 120'000;  // of connecting
};

/// Used by one thread at a time.
class Communicator {
 public:
  /// Begins to connect rank `rank` of `size`, all of which do so with the same `id`. `purpose` is for messages: "group
  /// 'gradients'".
  Communicator(std::string purpose, const ncclUniqueId& id, int rank, int size, const NcclSettings& settings);
  /// In an orderly way where it is sound and no exception passes by; else as abort(). Takes seconds at most.
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  /// Whether it is connected. CommError when it can't be, or not in time.
  bool connected();
  Stream& stream() { return stream_; }

  /// Makes one of NCCL's calls, or a group of them. The next one must wait until launched().
  void launch(std::string_view what, const std::function<ncclResult_t(ncclComm_t, cudaStream_t)>& call);
  /// Whether what was launched is queued on the stream. CommError when it failed.
  bool launched() { return is_ready(); }
  /// CommError when something went wrong since, such as a connection that broke.
  void check() { static_cast<void>(is_ready()); }
  /// Ends what is running: its kernels leave the GPU, without results. Returns at once. Not to be used afterwards.
  void abort() noexcept;

 private:
  bool is_ready();
  bool finalize() noexcept;
  void release(ncclResult_t (*call)(ncclComm_t)) noexcept;

  const std::string purpose_;
  const int device_;
  const std::chrono::milliseconds timeout_;
  const Clock::time_point begin_;
  cuda::CudaStream stream_;
  ncclComm_t comm_ = nullptr;  // null: given away to be freed
  std::future<void> released_;
  bool connected_ = false;
  bool broken_ = false;
};

}  // namespace trireme::comm
