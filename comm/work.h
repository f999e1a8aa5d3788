// Work: the handle of an operation that was sent off, to wait for.
#pragma once

#include <memory>
#include <utility>

#include "core/backend.h"

namespace trireme {

/// Cheap to copy. A default-constructed Work is done. The operation keeps the tensors it works on alive (those of a replay:
/// comm/recorded_call.h); it runs on when its Work is dropped, as long as there is the group.
class [[nodiscard]] Work {
 public:
  /// What an implementation of Group hands out.
  class State {
   public:
    virtual ~State() = default;
    virtual bool done() const = 0;
    virtual void wait() = 0;
    virtual void wait(Stream&) { wait(); }
    virtual void wait_until_issued() {}
    virtual void release_tensors() {}
  };

  Work() = default;
  explicit Work(std::shared_ptr<State> state) : state_(std::move(state)) {}

  /// Blocks until the operation is done. Throws CommError when it failed, timed out or was given up because
  /// another one failed; every call does so again.
  void wait() const {
    if (state_) state_->wait();
  }
  /// Work queued on `stream` from here on sees the result. For host memory the same as wait().
  void wait(Stream& stream) const {
    if (state_) state_->wait(stream);
  }
  /// Blocks until nothing more of it is the host's to do. What may wait for all of a device's work, as loading a kernel may,
  /// must not come between the halves of an exchange.
  void wait_until_issued() const {
    if (state_) state_->wait_until_issued();
  }
  /// The operation will be over by the time that what is queued from here on runs, as the caller knows. A recorded call, of
  /// which that can't be told, gives the tensors' memory up; others do once they are done.
  void release_tensors() const {
    if (state_) state_->release_tensors();
  }
  /// True when wait() would not block: done, or failed.
  bool done() const { return !state_ || state_->done(); }

 private:
  std::shared_ptr<State> state_;
};

}  // namespace trireme
