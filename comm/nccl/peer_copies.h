// PeerCopies: sums and gathers arrays of GPUs that reach each other's memory, moved by copy engines. NCCL's
// kernels hold multiprocessors for as long as data travels, and products beside them need a wave more; copies
// hold none, and the additions all of them for microseconds.
//
// comm/copy_plan.h says what is copied when. Lanes are streams, which wait for the peers' by numbers
// (shared_words.h): nothing waits on the host.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "comm/copy_plan.h"
#include "comm/device_operation.h"
#include "comm/nccl/shared_words.h"
#include "core/backend/cuda/cuda_backend.h"

namespace trireme::comm {

/// Used by one thread at a time.
class PeerCopies {
 public:
  /// Begins to find out whether the ranks of `control`, all of which do so, reach each other's memory over
  /// NVLink. `control` must outlive that, the backend this; `label` names its operations.
  PeerCopies(Group& control, Backend& backend, std::string_view label);
  ~PeerCopies();
  PeerCopies(const PeerCopies&) = delete;
  PeerCopies& operator=(const PeerCopies&) = delete;

  /// Whether that is known; asking goes on with it. CommError when the ranks didn't meet.
  bool is_decided();
  /// The meeting's operation that is under way, if any.
  Work meeting() const { return meeting_; }
  /// Once it is decided: whether it runs such calls. The same on all ranks.
  bool takes(const DeviceCall& call) const;

  /// Queues it behind `after`, which may be null; `begin` and `end` are recorded before and behind it.
  void run(const DeviceCall& call, Event* after, Event& begin, Event& end);
  /// Ends what waits for peers; its results are worthless. Not to be used afterwards.
  void abort() noexcept;

 private:
  struct Offer;
  struct Pointers;

  Offer make_offer();
  bool reach_all();
  std::byte* reach(const Offer& peer);
  size_t num_words() const;
  bool finish_lanes();
  void close_peers() noexcept;
  bool are_all_gone();
  void queue(const CopyStep& step, const DeviceCall& call);

  Group& control_;
  Backend& backend_;
  const int rank_, size_, device_;
  const std::string label_;
  enum class Stage : uint8_t { offering, voting, decided } stage_ = Stage::offering;
  Tensor my_offer_, offers_, vote_;  // of host memory
  Work meeting_;
  bool can_ = false;
  bool aborted_ = false;

  std::byte* buffer_ = nullptr;
  std::vector<std::byte*> buffers_;  // of all ranks, as this one reaches them; null: not reached
  std::vector<bool> opened_;
  std::unique_ptr<SharedWords> words_;
  std::vector<std::unique_ptr<cuda::CudaStream>> lanes_;
  std::vector<std::unique_ptr<Event>> lane_ends_;
  CopyPlanner planner_;
};

}  // namespace trireme::comm
