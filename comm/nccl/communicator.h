// Communicator: one of NCCL's, with the stream that its operations run on. It connects, and makes the first operation of
// each kind, without blocking (ncclConfig_t::blocking = 0): such a call returns at once, and NCCL is asked later how it
// went; so whatever the peers do, no thread hangs in it, and the communicator can be aborted at any time. That costs a
// thread of NCCL's for each call, some 60 us of the host. What is connected needs no peer to be launched: a second
// communicator, split from the first with the same connections, takes those operations in 10 us, in the caller's thread.
// Where NCCL may still connect later, because NCCL_RUNTIME_CONNECT is not 0, there is no second one.
// https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/usage/communicators.html
#pragma once

#include <nccl.h>

#include <functional>
#include <future>
#include <memory>
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

  /// Makes one of NCCL's calls, or a group of them, of that kind. The next one must wait until launched().
  void launch(OpKind kind, std::string_view what, const std::function<ncclResult_t(ncclComm_t, cudaStream_t)>& call);
  /// Whether the next call of that kind may be captured: it needs no peer to be launched.
  bool can_capture(OpKind kind) const;
  /// Makes such a call, while the stream is captured. IoError where it can't be.
  void capture(std::string_view what, const std::function<ncclResult_t(ncclComm_t, cudaStream_t)>& call);
  /// Whether what was launched is queued on the stream. CommError when it failed.
  bool launched() { return is_ready(); }
  /// CommError when something went wrong since, such as a connection that broke.
  void check() { static_cast<void>(is_ready()); }
  /// Ends what is running: its kernels leave the GPU, without results. Returns at once. Not to be used afterwards.
  void abort() noexcept;

 private:
  /// NCCL writes them from its own threads too.
  struct Comms {
    ncclComm_t first = nullptr;  // does not block
    ncclComm_t split = nullptr;  // blocks; null: not made
  };
  static void destroy(const Comms& comms);
  static void abort(const Comms& comms);
  static uint32_t bit_of(OpKind kind) { return 1U << static_cast<unsigned>(kind); }
  bool has_made(OpKind kind) const { return (kinds_ & bit_of(kind)) != 0; }
  bool is_ready();
  void begin_to_split();
  void release(void (*end)(const Comms&)) noexcept;

  const std::string purpose_;
  const int device_;
  const int ctas_;
  const std::chrono::milliseconds timeout_;
  const Clock::time_point begin_;
  cuda::CudaStream stream_;
  std::shared_ptr<Comms> comms_ = std::make_shared<Comms>();  // null: given away to be freed
  std::future<void> released_;
  enum class Stage : uint8_t { connecting, splitting, connected } stage_ = Stage::connecting;
  uint32_t kinds_ = 0;  // of operations that were made: a bit each
  bool broken_ = false;
};

}  // namespace trireme::comm
