#include "comm/nccl/replay_progress.h"

#include "comm/nccl/tell.h"

namespace trireme::comm {

ReplayProgress::ReplayProgress(Backend& backend)
    : backend_(backend),
      memory_(backend.allocate_host(sizeof(*word_))),
      word_(new (memory_.get()) std::atomic<uint32_t>(0)),
      stream_(backend.device().index, cuda::StreamPriority::high) {
  load_tell();
}

void ReplayProgress::tell(Event& event, uint32_t number) {
  event.wait(stream_);
  static_assert(sizeof(*word_) == sizeof(number) && std::atomic<uint32_t>::is_always_lock_free);
  comm::tell(reinterpret_cast<uint32_t*>(word_), number, stream_.raw());
}

void ReplayProgress::end(Stream& stream) {
  const auto told = backend_.make_event();
  told->record(stream_);
  told->wait(stream);
}

}  // namespace trireme::comm
