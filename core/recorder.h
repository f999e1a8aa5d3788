// Recorder: work of a device recorded in pieces (CUDA graphs), with what only the host can do between them,
// such as collectives.
#pragma once

#include <functional>
#include <memory>

#include "core/backend.h"

namespace trireme {

class Recorder {
 public:
  /// Of what is queued on `stream`, which outlives this, as the backend does.
  Recorder(Backend& backend, Stream& stream) : backend_(backend), stream_(stream) {}

  /// Records what `body` queues, and the actions that it gives to on_host(), without running any of it. Null
  /// where the device can't record; `body` is not called then. A replay queues the pieces and calls the
  /// actions in their order. Meanwhile the stream tells of this recorder.
  std::unique_ptr<Recording> record(const std::function<void()>& body);

  /// Runs `action`; while recording, has each replay run it here, and what it refers to must outlive the
  /// recording.
  void on_host(std::function<void()> action);

 private:
  class Pieces;

  void stop();

  Backend& backend_;
  Stream& stream_;
  Pieces* pieces_ = nullptr;  // not null: recording
};

}  // namespace trireme
