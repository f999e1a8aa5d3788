// Recorder: work of a device recorded as one piece (a CUDA graph), or, where the host has something to do in between, such as
// exchanges that it must call, in several, with these calls between them.
#pragma once

#include <functional>
#include <memory>

#include "core/backend.h"

namespace trireme {

/// Work of other streams that is part of a recording: they were made to wait for the recorded one, and so are recorded too.
class RecordedBranch {
 public:
  virtual ~RecordedBranch() = default;
  /// Whether it has work that the recorded stream does not wait for yet.
  virtual bool is_open() const = 0;
  /// Has `stream` wait for all of it so far.
  virtual void have_wait(Stream& stream) = 0;
  /// The recording ends, as far as this is concerned: the recorded stream waits for all of it.
  virtual void end() = 0;
  /// Whether a replay would have the host do something that the host of another replay might wait for.
  virtual bool needs_host() const = 0;
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
  /// Where branches turn out not to do (`need_pieces`), `undo` is called, and `body` once more, without them.
  std::unique_ptr<Recording> record(const std::function<void()>& body, const std::function<void()>& undo = [] {},
                                    bool with_branches = true);
  /// Whether what was recorded last has branches.
  bool has_branches() const { return has_branches_; }

  /// Runs `action`; while recording, has each replay run it here, and what it refers to must outlive the
  /// recording.
  void on_host(std::function<void()> action);

  /// While recording: whether other streams may still become part of it. Not once it is in pieces: each piece's end would
  /// have the recorded stream wait for them.
  bool takes_branches() const { return pieces_ && in_one_; }
  void add(std::shared_ptr<RecordedBranch> branch);
  /// Something of `branch` begins, on `stream`: it waits for open ones. No graph promises the order of two that don't wait for each
  /// other, and ranks that differ in it might wait for each other for ever.
  void begin_of(const RecordedBranch& branch, Stream& stream);
  /// What comes next can't be done beside branches: ends this recording where it has some.
  void need_pieces();

 private:
  class Pieces;

  std::unique_ptr<Pieces> record_once(const std::function<void()>& body);
  void stop();

  Backend& backend_;
  Stream& stream_;
  Pieces* pieces_ = nullptr;  // not null: recording
  bool in_one_ = false;       // so far, and it may stay so
  bool has_branches_ = false;
};

}  // namespace trireme
