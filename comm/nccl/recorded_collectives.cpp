#include "comm/nccl/recorded_collectives.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "comm/nccl/nccl_call.h"

namespace trireme::comm {

/// All of them, in one replay. They need no issuing: that is done.
class RecordedCollectives::Replay final : public DeviceOperation {
 public:
  Replay(std::shared_ptr<const RecordedCollectives> recorded, const GroupOptions& options, std::unique_ptr<Event> begin,
         std::unique_ptr<Event> end)
      : DeviceOperation({}, "replayed step", options, nullptr, std::move(end)), recorded_(std::move(recorded)) {
    begin_ = std::move(begin);
    limited_ = true;
  }
  std::string text() const override {
    const uint32_t at = recorded_->progress_->at();
    const bool is_known = waits_for_peers(at) && at / 2 < recorded_->texts_.size();  // another recording may be replayed by now
    return is_known ? recorded_->texts_[at / 2] : "a replayed step";
  }

 private:
  static bool waits_for_peers(uint32_t at) { return at % 2 == 1; }
  bool issue() override { return true; }
  bool is_replay() const override { return true; }
  bool is_traced() const override { return false; }  // most of it computes
  bool has_moved() override {
    const uint32_t at = recorded_->progress_->at();
    return std::exchange(last_, at) != at || !waits_for_peers(at);
  }

  const std::shared_ptr<const RecordedCollectives> recorded_;
  uint32_t last_ = 0;
};

RecordedCollectives::RecordedCollectives(Group& group, DeviceEngine& engine, Backend& backend, Communicator& communicator,
                                         std::shared_ptr<CopyOrder> order, std::shared_ptr<ReplayProgress> progress,
                                         Recorder& recorder, Stream& stream)
    : group_(group),
      engine_(engine),
      backend_(backend),
      communicator_(communicator),
      order_(std::move(order)),
      recorder_(recorder),
      stream_(stream),
      progress_(std::move(progress)) {}

Work RecordedCollectives::add(const DeviceCall& call, std::string text, int num_ranks, void* zero) {
  ++num_of_nccl_;
  const std::string what = text;
  return add(call, std::move(text), [&] {
    if (call.bytes() > 0)
      communicator_.capture(what, [&](ncclComm_t comm, cudaStream_t s) { return call_nccl(call, num_ranks, zero, comm, s); });
  });
}

Work RecordedCollectives::add(const DeviceCall& call, std::string text, PeerCopies& copies) {
  if (!copies_) copies_.emplace(copies);
  return add(call, std::move(text), [&] { copies_->add(call, cuda::raw_stream(communicator_.stream())); });
}

Work RecordedCollectives::add(const DeviceCall& call, std::string text, const std::function<void()>& record) {
  Stream& own = communicator_.stream();
  const auto ready = backend_.make_event();
  ready->record(stream_);
  ready->wait(own);
  recorder_.begin_of(*this, own);
  const auto number = 2 * static_cast<uint32_t>(texts_.size());
  tell_at(number + 1);
  record();
  auto end = tell_at(number + 2);
  texts_.push_back(std::move(text));
  calls_.push_back(std::make_shared<CapturedCall>(recorder_, std::vector<Tensor>{call.input, call.output}, std::move(end)));
  return Work(calls_.back());
}

/// Recorded: the device is there.
std::unique_ptr<Event> RecordedCollectives::tell_at(uint32_t place) {
  auto here = backend_.make_event();
  here->record(communicator_.stream());
  is_told_ = true;
  progress_->tell(*here, place);
  return here;
}

bool RecordedCollectives::is_open() const {
  return std::ranges::any_of(calls_, [](const auto& call) { return !call->is_waited_for(); });
}

void RecordedCollectives::have_wait(Stream& stream) {
  const auto end = backend_.make_event();
  end->record(communicator_.stream());
  end->wait(stream);
}

void RecordedCollectives::end() {
  ended_ = true;
  calls_.clear();
  if (copies_) {
    tell_at(2 * static_cast<uint32_t>(texts_.size()) + 1);
    copies_->end(cuda::raw_stream(communicator_.stream()));
    tell_at(2 * static_cast<uint32_t>(texts_.size()) + 2);
    have_wait(stream_);
  }
  if (std::exchange(is_told_, false)) progress_->end(stream_);
  // NCCL's proxies move what goes over networks. They are told by the host, which waits for room in their queue, even when they have
  // been aborted: such a replay would never end.
  needs_host_ = cuda::records_host_work(stream_);
}

/// A device's copies may run in the order in which they were queued, so those of other groups that were called before are queued
/// before, too. (Nothing is called until the replay is queued: the thread that calls is this one.)
void RecordedCollectives::wait_for_turn() {
  const auto turn = order_->take_turn();
  engine_.drive_until([&] { return turn->has_come(); });
}

/// In the order in which they are called and replayed, whatever NCCL makes of two streams.
void RecordedCollectives::before_replay(Stream& stream) {
  uint32_t first = 0;
  engine_.drive_until_issued({});
  if (copies_) {
    wait_for_turn();
    engine_.use_idle({}, [&] { first = copies_->begin_replay(); });
  }
  if (const auto failure = group_.failure())
    throw GivenUp(fmt::format("rank {}: a step was not replayed: {}", group_.world_rank(group_.rank()), *failure));
  if (copies_) copies_->put_before_replay(first, stream);
  have_wait(stream);
  begin_ = backend_.make_event();
  begin_->record(stream);
}

void RecordedCollectives::after_replay(Stream& stream) {
  auto end = backend_.make_event();
  end->record(stream);
  end->wait(communicator_.stream());
  if (copies_) copies_->put_behind_replay(stream);
  engine_.submit(std::make_shared<Replay>(shared_from_this(), group_.options(), std::move(begin_), std::move(end)));
}

}  // namespace trireme::comm
