// RecordedCollectives: the collectives of one group that are part of a recording (core/recorder.h). The device tells the host
// which one it is at, so a replay is watched as if each had been called: who stays away from one is noticed in the same time and
// told in the same words, and what ends the group has the replays that are under way come to their end, and allows no other.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/copy_order.h"
#include "comm/device_engine.h"
#include "comm/nccl/communicator.h"
#include "comm/nccl/recorded_copies.h"
#include "comm/nccl/replay_progress.h"
#include "comm/recorded_call.h"
#include "core/recorder.h"

namespace trireme::comm {

class RecordedCollectives final : public RecordedBranch, public std::enable_shared_from_this<RecordedCollectives> {
 public:
  /// Of `group`, which outlives it, in what `recorder` records of `stream`; they run on the communicator's stream. `progress` is
  /// for all recordings of the group, `order` for all copies of its device, if it has any.
  RecordedCollectives(Group& group, DeviceEngine& engine, Backend& backend, Communicator& communicator,
                      std::shared_ptr<CopyOrder> order, std::shared_ptr<ReplayProgress> progress, Recorder& recorder,
                      Stream& stream);

  /// While they are recorded, and their stream takes nothing else.
  bool is_recorded() const { return !ended_; }
  Recorder& recorder() { return recorder_; }
  /// Replays that are given up go on to their end, and each of NCCL's kernels looks for that only after some thousand attempts to go
  /// on: 4 ms over NVLink, 25 through host memory (H200, NCCL 2.28). So many of one group, twice, end in 5 or 26 seconds. Copies end
  /// at once.
  static constexpr size_t kMost = 512;
  /// Whether NCCL is to do no more.
  bool is_full() const { return num_of_nccl_ >= kMost; }
  /// Records one more, by a call that the communicator can capture. `text` is what it is called in messages.
  Work add(const DeviceCall& call, std::string text, int num_ranks, void* zero);
  /// Records one more, by `copies`, which are connected and take it.
  Work add(const DeviceCall& call, std::string text, PeerCopies& copies);

  bool is_open() const override;
  void have_wait(Stream& stream) override;
  void end() override;
  bool needs_host() const override { return needs_host_; }
  void before_replay(Stream& stream) override;
  void after_replay(Stream& stream) override;

 private:
  class Replay;
  Work add(const DeviceCall& call, std::string text, const std::function<void()>& record);
  std::unique_ptr<Event> tell_at(uint32_t place);
  void wait_for_turn();

  Group& group_;
  DeviceEngine& engine_;
  Backend& backend_;
  Communicator& communicator_;
  const std::shared_ptr<CopyOrder> order_;
  std::optional<RecordedCopies> copies_;  // where there are any
  Recorder& recorder_;
  Stream& stream_;
  bool ended_ = false, needs_host_ = false;
  bool is_told_ = false;  // of progress_, and the recorded stream does not wait for that yet
  /// Once the device is at the i-th, 2 i + 1; behind it, 2 i + 2. One more is the end of all copies.
  const std::shared_ptr<ReplayProgress> progress_;
  std::vector<std::string> texts_;
  size_t num_of_nccl_ = 0;
  std::vector<std::shared_ptr<CapturedCall>> calls_;  // while they are recorded: they hold their tensors, whoever drops them
  std::unique_ptr<Event> begin_;  // of the replay that is being queued
};

}  // namespace trireme::comm
