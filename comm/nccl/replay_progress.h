// ReplayProgress: where the device is in a recording's collectives. A stream of its own, which is recorded too, writes it to
// host memory, so that no collective waits for that.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/backend/cuda/cuda_backend.h"

namespace trireme::comm {

class ReplayProgress {
 public:
  /// Of recordings on `backend`, which outlives it, whose replays follow one another. Waits for the device.
  explicit ReplayProgress(Backend& backend);

  /// The number that was written last.
  uint32_t at() const { return *word_; }
  /// Recorded: once the device has come to `event`, and past what came before this, it writes `number`.
  void tell(Event& event, uint32_t number);
  /// Has `stream` wait for what tell() recorded.
  void end(Stream& stream);

 private:
  Backend& backend_;
  const std::shared_ptr<void> memory_;  // page-locked
  std::atomic<uint32_t>* const word_;
  cuda::CudaStream stream_;
};

}  // namespace trireme::comm
