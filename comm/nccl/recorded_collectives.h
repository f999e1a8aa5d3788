// RecordedCollectives: the collectives of one group that are part of a recording (core/recorder.h). The device tells the host
// which one it is at, so a replay is watched as if each had been called: who stays away from one is noticed in the same time and
// told in the same words, and what ends the group ends the replay that is under way and allows no other.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "comm/device_engine.h"
#include "comm/nccl/communicator.h"
#include "core/recorder.h"

namespace trireme::comm {

class RecordedCollectives final : public RecordedBranch, public std::enable_shared_from_this<RecordedCollectives> {
 public:
  /// Of `group`, which outlives it, in what `recorder` records of `stream`; they run on the communicator's stream.
  RecordedCollectives(Group& group, DeviceEngine& engine, Backend& backend, Communicator& communicator, Recorder& recorder,
                      Stream& stream);

  bool is_of(const Recorder& recorder) const { return !joined_ && &recorder == &recorder_; }
  /// A replay that is given up goes on to its end, and each of NCCL's kernels looks for that only after some thousand attempts to go
  /// on: 4 ms over NVLink, 25 ms by sockets (H200, NCCL 2.28). So many end in seconds.
  static constexpr size_t kMost = 256;
  bool is_full() const { return texts_.size() >= kMost; }
  /// Records one more, by a call that the communicator can capture. `text` is what it is called in messages.
  Work add(const DeviceCall& call, std::string text, int num_ranks, void* zero);

  void join() override;
  void before_replay(Stream& stream) override;
  void after_replay(Stream& stream) override;

 private:
  class Replay;

  std::atomic<uint32_t>& at() const { return *static_cast<std::atomic<uint32_t>*>(at_.get()); }

  Group& group_;
  DeviceEngine& engine_;
  Backend& backend_;
  Communicator& communicator_;
  Recorder& recorder_;
  Stream& stream_;
  bool joined_ = false;
  /// Once the device is at the i-th, 2 i + 1; behind it, 2 i + 2.
  std::shared_ptr<void> at_;
  std::vector<std::string> texts_;
  std::vector<Work> works_;  // while they are recorded: they hold their tensors, whoever drops them
  std::unique_ptr<Event> begin_;  // of the replay that is being queued
};

}  // namespace trireme::comm
