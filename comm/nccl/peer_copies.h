// PeerCopies: sums and gathers arrays of GPUs that reach each other's memory, moved by copy engines. NCCL's
// kernels hold multiprocessors for as long as data travels, and products beside them need a wave more; copies
// hold none, and the additions all of them for microseconds.
//
// comm/copy_plan.h says what is copied when, and comm/copy_queue.h how far ahead of the device that is queued.
// Lanes are streams, which wait for the peers' by numbers (shared_words.h): nothing waits on the host.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "comm/copy_queue.h"
#include "comm/device_operation.h"
#include "comm/nccl/shared_words.h"
#include "comm/nccl/signals.h"
#include "core/backend/cuda/cuda_backend.h"

namespace trireme::comm {

/// Used by one thread at a time.
class PeerCopies final : private CopyDevice {
 public:
  /// Begins to find out whether the ranks of `control`, all of which do so, reach each other's memory over
  /// NVLink. `control` must outlive that, the backend this; `label` names its operations.
  PeerCopies(Group& control, Backend& backend, std::string_view label);
  /// Waits some seconds at most for the peers to let go of this rank's buffer; else that stays until the
  /// process ends.
  ~PeerCopies() override;
  PeerCopies(const PeerCopies&) = delete;
  PeerCopies& operator=(const PeerCopies&) = delete;

  /// Whether that is known; asking goes on with it. CommError when the ranks didn't meet.
  bool is_decided();
  /// The meeting's operation that is under way, if any.
  Work meeting() const { return meeting_; }
  /// Once it is decided: whether there are copies. The same on all ranks.
  bool connected() const { return stage_ == Stage::decided && can_; }
  /// Whether copies would run such a call.
  static bool takes(const DeviceCall& call);

  /// Begins an operation that it takes(), behind `after`, which may be null; `event` is recorded where it begins.
  /// The one before it is all queued.
  void begin(const DeviceCall& call, Event* after, Event& event);
  /// Queues what there is room for. True when that is all, with `end` recorded behind it.
  bool go_on(const DeviceCall& call, Event& end);
  /// For recordings (recorded_copies.h), once they are connected. What plans the copies of one:
  CopyPlanner new_planner() const;
  CopyArray array_of(const DeviceCall& call) const;
  /// What ranks tell each other there; to be filled.
  Signals new_signals() const;
  /// Queues a step of `call` that copies or sums.
  void move(const CopyStep& step, const DeviceCall& call, cudaStream_t stream) const;
  /// Before a replay of so many pieces; all that was begun is queued. Gives the number before their first one.
  uint32_t begin_replay(uint32_t num_pieces);
  /// Then, on the stream that it is queued on: what was begun comes first. This one and the next may wait for that stream to take
  /// them, so nobody may wait for who calls them; nothing is begun meanwhile.
  void put_before_replay(uint32_t first, Stream& stream);
  /// Behind it, also when all was given up meanwhile: what is begun next comes after, and so does the end of this.
  void put_behind_replay(Stream& stream);

  /// Ends what waits for peers; its results are worthless, here and with the peers. Not to be used afterwards.
  void abort() noexcept;
  /// Whether a rank has done so.
  bool is_given_up();

 private:
  struct Home;
  struct Offer;
  enum class Stage : uint8_t { meeting, comparing, offering, voting, decided };

  uint32_t* first_of_replay() const;  // device memory: Signals::first
  void gather(const void* mine, size_t bytes);
  template <class T>
  T gathered(size_t rank) const;
  void vote(bool yes);
  bool are_linked() const;
  Offer make_offer();
  bool reach_all();
  std::byte* reach(size_t peer, const Offer& offer);
  void decide();
  size_t num_words() const;
  bool finish_lanes();
  void close_peers() noexcept;
  bool are_all_gone();
  std::byte* at(const CopyStep::Spot& spot, const DeviceCall& call) const;
  void queue(const CopyStep& step) override;
  bool has_told(const CopyStep& step) override;

  Group& control_;
  Backend& backend_;
  const int rank_, size_, device_;
  const std::string label_;
  Stage stage_ = Stage::meeting;
  Tensor mine_, all_;  // of host memory: what the ranks tell each other
  Work meeting_;
  bool can_ = false;
  bool aborted_ = false;

  std::vector<int> devices_;     // of all ranks, as this process numbers them
  std::vector<bool> is_here_;    // whether a rank is one of this process
  std::byte* buffer_ = nullptr;
  std::vector<std::byte*> buffers_;  // of all ranks, as this one reaches them; null: not reached
  std::unique_ptr<SharedWords> words_;
  std::vector<std::unique_ptr<cuda::CudaStream>> lanes_;
  std::vector<std::unique_ptr<Event>> lane_ends_;
  CopyQueue queue_;
  std::unique_ptr<Event> replay_end_;  // of the last one
  std::vector<size_t> used_;  // lanes of the operation that was begun
  const DeviceCall* call_ = nullptr;  // while steps of it are queued
};

}  // namespace trireme::comm
