#include "core/recorder.h"

#include <utility>
#include <vector>

#include "core/error.h"

namespace trireme {

class Recorder::Pieces : public Recording {
 public:
  void add(std::unique_ptr<Recording> work) {
    if (work) parts_.push_back({std::move(work), nullptr});
  }
  void add(std::function<void()> action) { parts_.push_back({nullptr, std::move(action)}); }
  void replay(Stream& stream) override {
    for (const Part& part : parts_) {
      if (part.work)
        part.work->replay(stream);
      else
        part.action();
    }
  }

 private:
  struct Part {  // one of both
    std::unique_ptr<Recording> work;
    std::function<void()> action;
  };
  std::vector<Part> parts_;
};

std::unique_ptr<Recording> Recorder::record(const std::function<void()>& body) {
  if (!backend_.begin_recording(stream_)) return nullptr;
  auto pieces = std::make_unique<Pieces>();
  pieces_ = pieces.get();
  stream_.recorder_ = this;
  try {
    body();
  } catch (...) {
    stop();
    try {
      backend_.end_recording(stream_);
    } catch (const Error&) {  // what went wrong in `body` is what there is to say
    }
    throw;
  }
  stop();
  pieces->add(backend_.end_recording(stream_));
  return pieces;
}

void Recorder::stop() {
  pieces_ = nullptr;
  stream_.recorder_ = nullptr;
}

void Recorder::on_host(std::function<void()> action) {
  if (!pieces_) return action();
  pieces_->add(backend_.end_recording(stream_));
  pieces_->add(std::move(action));
  TRIREME_ASSERT(backend_.begin_recording(stream_), "a device that recorded one piece records the next");
}

}  // namespace trireme
