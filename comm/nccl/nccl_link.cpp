#include "comm/nccl/nccl_link.h"

#include <fmt/format.h>

#include <thread>

#include "core/backend/cuda/check.h"

namespace trireme::comm {
namespace {

/// A message of `id`, which it keeps alive.
Tensor as_tensor(const std::shared_ptr<ncclUniqueId>& id) {
  auto storage = std::make_shared<Storage>(id, id->internal, sizeof(id->internal));
  return Tensor(std::move(storage), 0, {static_cast<int64_t>(sizeof(id->internal))}, DType::u8, Device{});
}

/// In the order of the stream, so that no other work of the device is waited for when it goes.
std::shared_ptr<void> make_zero(cudaStream_t stream) {
  void* data = nullptr;
  cuda::check(cudaMallocAsync(&data, sizeof(int32_t), stream), "cudaMallocAsync");
  std::shared_ptr<void> owner(data, [stream](void* p) { cudaFreeAsync(p, stream); });
  cuda::check(cudaMemsetAsync(data, 0, sizeof(int32_t), stream), "cudaMemsetAsync");
  return owner;
}

}  // namespace

NcclLink::NcclLink(std::unique_ptr<Group> control, const NcclSettings& settings)
    : control_(std::move(control)), settings_(settings) {
  const std::string purpose = fmt::format("group '{}'", control_->name());
  const auto id = std::make_shared<ncclUniqueId>();
  if (control_->rank() == 0) *id = new_nccl_id();
  control_->broadcast(as_tensor(id), 0, "GPUs of " + purpose).wait();
  collectives_ = std::make_unique<Communicator>(purpose, *id, control_->rank(), control_->size(), settings_);
  while (!collectives_->connected()) {
    if (const auto reason = control_->failure())
      throw GivenUp(fmt::format("rank {}: connecting the GPUs for {} was given up: {}", control_->world_rank(control_->rank()),
                                purpose, *reason));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  zero_ = make_zero(cuda::raw_stream(collectives_->stream()));
}

NcclLink::~NcclLink() = default;

Communicator* NcclLink::find(const QueueKey& queue, const std::string& label, int64_t timeout_ms) {
  if (queue.peer < 0) return collectives_.get();
  std::unique_ptr<Channel>& channel = channels_[queue];
  if (!channel) {
    channel = std::make_unique<Channel>();
    control_->set_options({timeout_ms, /*tracer=*/nullptr});
    const Tensor id = as_tensor(channel->id);
    if (queue.outgoing) {
      *channel->id = new_nccl_id();
      channel->id_exchanged = control_->send(id, queue.peer, queue.tag, label);
    } else {
      channel->id_exchanged = control_->recv(id, queue.peer, queue.tag, label);
    }
  }
  if (!channel->communicator) {
    if (!channel->id_exchanged.done()) return nullptr;
    channel->id_exchanged.wait();  // throws what went wrong
    NcclSettings settings = settings_;
    settings.timeout_ms = timeout_ms;
    const std::string purpose = fmt::format("messages {} rank {} in group '{}'", queue.outgoing ? "to" : "from",
                                            control_->world_rank(queue.peer), control_->name());
    channel->communicator = std::make_unique<Communicator>(purpose, *channel->id, queue.outgoing ? 0 : 1, 2, settings);
  }
  return channel->communicator->connected() ? channel->communicator.get() : nullptr;
}

void NcclLink::check() {
  collectives_->check();
  for (const auto& [queue, channel] : channels_)
    if (channel->communicator) channel->communicator->check();
}

void NcclLink::abort() noexcept {
  collectives_->abort();
  for (const auto& [queue, channel] : channels_)
    if (channel->communicator) channel->communicator->abort();
}

}  // namespace trireme::comm
