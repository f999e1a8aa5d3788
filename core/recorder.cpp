#include "core/recorder.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "core/error.h"

namespace trireme {
namespace {

struct NeedsPieces : InternalError {
  NeedsPieces() : InternalError("a recorded step has something for the host to do between exchanges that are recorded") {}
};

}  // namespace

class Recorder::Pieces : public Recording {
 public:
  void add(std::unique_ptr<Recording> work) {
    if (work) parts_.push_back({std::move(work), nullptr});
  }
  void add(std::function<void()> action) { parts_.push_back({nullptr, std::move(action)}); }
  void add(std::shared_ptr<RecordedBranch> branch) { branches_.push_back(std::move(branch)); }
  std::span<const std::shared_ptr<RecordedBranch>> branches() const { return branches_; }
  void end_branches(Stream& recorded) {
    for (const auto& branch : branches_) {
      branch->have_wait(recorded);
      branch->end();
    }
  }
  void replay(Stream& stream) override {
    for (const auto& branch : branches_) branch->before_replay(stream);
    for (const Part& part : parts_) {
      if (part.work)
        part.work->replay(stream);
      else
        part.action();
    }
    for (const auto& branch : branches_) branch->after_replay(stream);
  }

 private:
  struct Part {  // one of both
    std::unique_ptr<Recording> work;
    std::function<void()> action;
  };
  std::vector<std::shared_ptr<RecordedBranch>> branches_;
  std::vector<Part> parts_;  // go before what their work is written to
};

std::unique_ptr<Recording> Recorder::record(const std::function<void()>& body, const std::function<void()>& undo,
                                            bool with_branches) {
  in_one_ = with_branches;
  try {
    return record_once(body);
  } catch (const NeedsPieces&) {
    undo();
  }
  in_one_ = false;
  return record_once(body);
}

std::unique_ptr<Recorder::Pieces> Recorder::record_once(const std::function<void()>& body) {
  if (!backend_.begin_recording(stream_)) return nullptr;
  auto pieces = std::make_unique<Pieces>();
  pieces_ = pieces.get();
  stream_.recorder_ = this;
  try {
    body();
    pieces->end_branches(stream_);
    if (std::ranges::any_of(pieces->branches(), [](const auto& branch) { return branch->needs_host(); })) throw NeedsPieces();
  } catch (...) {
    stop();
    const auto try_to = [](const auto& end) {
      try {
        end();
      } catch (const Error&) {  // what went wrong in `body` is what there is to say
      }
    };
    try_to([&] { pieces->end_branches(stream_); });
    try_to([&] { backend_.drop_recording(stream_); });
    throw;
  }
  stop();
  has_branches_ = !pieces->branches().empty();
  pieces->add(backend_.end_recording(stream_));
  return pieces;
}

void Recorder::stop() {
  pieces_ = nullptr;
  stream_.recorder_ = nullptr;
}

void Recorder::on_host(std::function<void()> action) {
  if (!pieces_) return action();
  need_pieces();
  in_one_ = false;
  pieces_->add(backend_.end_recording(stream_));
  pieces_->add(std::move(action));
  TRIREME_ASSERT(backend_.begin_recording(stream_), "a device that recorded one piece records the next");
}

void Recorder::add(std::shared_ptr<RecordedBranch> branch) {
  TRIREME_ASSERT(takes_branches(), "a branch of what is not recorded, or in pieces");
  pieces_->add(std::move(branch));
}

void Recorder::begin_of(const RecordedBranch& branch, Stream& stream) {
  for (const auto& other : pieces_->branches())
    if (other.get() != &branch && other->is_open()) other->have_wait(stream);
}

void Recorder::need_pieces() {
  if (pieces_ && !pieces_->branches().empty()) throw NeedsPieces();
}

}  // namespace trireme
