// Recorder: work of a device recorded as one piece (a CUDA graph), or, where the host has something to do in between, such as
// exchanges that it must call, in several, with these calls between them.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "core/backend.h"

namespace trireme {

/// Work of other streams that is part of a recording: they were made to wait for the recorded one, and so are recorded too.
class RecordedBranch {
 public:
  virtual ~RecordedBranch() = default;
  /// Has the recorded stream wait for all of it: the recording is about to end.
  virtual void join() = 0;
  /// Around each replay. What the first one throws ends the replay before anything is queued.
  virtual void before_replay(Stream& stream) = 0;
  virtual void after_replay(Stream& stream) = 0;
};

class Recorder {
 public:
  /// Of what is queued on `stream`, which outlives this, as the backend does.
  Recorder(Backend& backend, Stream& stream) : backend_(backend), stream_(stream) {}

  /// Records what `body` queues, and the actions that it gives to on_host(), without running any of it. Null
  /// where the device can't record; `body` is not called then. A replay queues the pieces and calls the
  /// actions in their order. Meanwhile the stream tells of this recorder.
  /// Where on_host() is called after add(), `undo` is, and `body` once more, this time without branches.
  std::unique_ptr<Recording> record(const std::function<void()>& body, const std::function<void()>& undo = [] {});

  /// Runs `action`; while recording, has each replay run it here, and what it refers to must outlive the
  /// recording.
  void on_host(std::function<void()> action);

  /// While recording: whether other streams may still become part of it. Not once it is in pieces: each piece's end would
  /// have the recorded stream wait for them.
  bool takes_branches() const { return pieces_ && in_one_; }
  void add(std::shared_ptr<RecordedBranch> branch);

 private:
  class Pieces;

  std::unique_ptr<Pieces> record_once(const std::function<void()>& body);
  void stop();

  Backend& backend_;
  Stream& stream_;
  Pieces* pieces_ = nullptr;  // not null: recording
  bool in_one_ = false;       // so far, and it may stay so
};

}  // namespace trireme
