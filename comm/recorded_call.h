// RecordedCall: an operation of a group that is called on a stream while that is being recorded (core/recorder.h). It is
// the host's to call, so each replay calls it anew, and waits where its Work was waited for.
#pragma once

#include <functional>
#include <vector>

#include "comm/work.h"
#include "core/recorder.h"
#include "core/tensor.h"

namespace trireme::comm {

class RecordedCall final : public Work::State, public std::enable_shared_from_this<RecordedCall> {
 public:
  /// `call` is what replays call. It must not keep memory of the recording: the tensors that it uses are `held` until the
  /// stream waits, since then others may have their memory. What it refers to outlives the recording.
  static Work record(Recorder& recorder, std::vector<Tensor> held, std::function<Work()> call);

  RecordedCall(Recorder& recorder, std::vector<Tensor> held) : recorder_(recorder), held_(std::move(held)) {}

  bool done() const override { return false; }
  /// IoError, by which the recording fails: nothing runs meanwhile.
  void wait() override;
  /// The recorded one; InternalError for another.
  void wait(Stream& stream) override;
  void wait_until_issued() override;
  void release_tensors() override { held_.clear(); }

 private:
  Recorder& recorder_;
  std::vector<Tensor> held_;
  Work work_;  // of the replay that is going on
};

}  // namespace trireme::comm
