// Operations of a group that are called on a stream while that is being recorded (core/recorder.h): a RecordedCall is the host's
// to call, so each replay calls it anew, and waits where its Work was waited for; a CapturedCall is part of the recording.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "comm/work.h"
#include "core/recorder.h"
#include "core/tensor.h"

namespace trireme::comm {

/// What both have in common. The tensors are `held` until the stream waits: since then others may have their memory.
class RecordedWork : public Work::State {
 public:
  RecordedWork(Recorder& recorder, std::vector<Tensor> held) : recorder_(recorder), held_(std::move(held)) {}

  bool done() const override { return false; }
  /// IoError, by which the recording fails: nothing runs meanwhile.
  void wait() override;
  /// The recorded one; InternalError for another.
  void wait(Stream& stream) override;
  void release_tensors() override { held_.clear(); }
  bool is_waited_for() const { return is_waited_for_; }

 protected:
  Recorder& recorder_;

 private:
  virtual void do_wait(Stream& stream) = 0;

  std::vector<Tensor> held_;
  bool is_waited_for_ = false;
};

class RecordedCall final : public RecordedWork, public std::enable_shared_from_this<RecordedCall> {
 public:
  /// `call` is what replays call. It must not keep memory of the recording: the tensors that it uses are `held`. What it refers
  /// to outlives the recording.
  static Work record(Recorder& recorder, std::vector<Tensor> held, std::function<Work()> call);

  using RecordedWork::RecordedWork;
  void wait_until_issued() override;

 private:
  void do_wait(Stream& stream) override;

  Work work_;  // of the replay that is going on
};

class CapturedCall final : public RecordedWork {
 public:
  /// `end` was recorded where the operation ends, on a stream that is part of the recording.
  CapturedCall(Recorder& recorder, std::vector<Tensor> held, std::unique_ptr<Event> end)
      : RecordedWork(recorder, std::move(held)), end_(std::move(end)) {}

 private:
  void do_wait(Stream& stream) override { end_->wait(stream); }

  const std::unique_ptr<Event> end_;
};

}  // namespace trireme::comm
