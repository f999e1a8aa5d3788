#include "comm/nccl/recorded_collectives.h"

#include <fmt/format.h>

#include <utility>

#include "comm/nccl/nccl_call.h"
#include "comm/nccl/tell.h"
#include "comm/recorded_call.h"

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
    const uint32_t at = recorded_->at();
    return waits_for_peers(at) ? recorded_->texts_[at / 2] : "a replayed step";
  }

 private:
  static bool waits_for_peers(uint32_t at) { return at % 2 == 1; }
  bool issue() override { return true; }
  bool has_moved() override {
    const uint32_t at = recorded_->at();
    return std::exchange(last_, at) != at || !waits_for_peers(at);
  }

  const std::shared_ptr<const RecordedCollectives> recorded_;
  uint32_t last_ = 0;
};

RecordedCollectives::RecordedCollectives(Group& group, DeviceEngine& engine, Backend& backend, Communicator& communicator,
                                         Recorder& recorder, Stream& stream)
    : group_(group),
      engine_(engine),
      backend_(backend),
      communicator_(communicator),
      recorder_(recorder),
      stream_(stream),
      at_(backend.allocate_host(sizeof(std::atomic<uint32_t>))) {
  new (at_.get()) std::atomic<uint32_t>(0);
}

Work RecordedCollectives::add(const DeviceCall& call, std::string text, int num_ranks, void* zero) {
  Stream& own = communicator_.stream();
  const cudaStream_t raw = cuda::raw_stream(own);
  const auto ready = backend_.make_event();
  ready->record(stream_);
  ready->wait(own);
  const auto number = 2 * static_cast<uint32_t>(texts_.size());
  tell(&at(), number + 1, raw);
  if (call.bytes() > 0)
    communicator_.launch(call.kind, text, [&](ncclComm_t comm, cudaStream_t s) { return call_nccl(call, num_ranks, zero, comm, s); });
  auto end = backend_.make_event();
  end->record(own);
  tell(&at(), number + 2, raw);
  texts_.push_back(std::move(text));
  works_.emplace_back(std::make_shared<CapturedCall>(recorder_, std::vector<Tensor>{call.input, call.output}, std::move(end)));
  return works_.back();
}

void RecordedCollectives::join() {
  const auto end = backend_.make_event();
  end->record(communicator_.stream());
  end->wait(stream_);
  joined_ = true;
  works_.clear();
}

void RecordedCollectives::before_replay(Stream& stream) {
  if (const auto failure = group_.failure())
    throw GivenUp(fmt::format("rank {}: a step was not replayed: {}", group_.world_rank(group_.rank()), *failure));
  begin_ = backend_.make_event();
  begin_->record(stream);
}

void RecordedCollectives::after_replay(Stream& stream) {
  auto end = backend_.make_event();
  end->record(stream);
  engine_.submit(std::make_shared<Replay>(shared_from_this(), group_.options(), std::move(begin_), std::move(end)));
}

}  // namespace trireme::comm
