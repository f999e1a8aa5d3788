#include "comm/nccl/nccl_link.h"

#include <fmt/format.h>

#include "core/backend/cuda/check.h"

namespace trireme::comm {
namespace {

/// Of a channel of messages, where the user doesn't say. Where there is no gate, a receive holds them while it waits for its
/// message, and products lack them.
constexpr int kMessageCtas = 4;

/// A message of `id`, which it keeps alive.
Tensor as_tensor(const std::shared_ptr<ncclUniqueId>& id) {
  auto storage = std::make_shared<Storage>(id, id->internal, sizeof(id->internal));
  return Tensor(std::move(storage), 0, {static_cast<int64_t>(sizeof(id->internal))}, DType::u8, Device{});
}

/// In the order of the stream, so that no other work of the device is waited for when it goes.
std::shared_ptr<void> make_zero(int device, cudaStream_t stream) {
  cuda::check(cudaSetDevice(device), "cudaSetDevice");
  void* data = nullptr;
  cuda::check(cudaMallocAsync(&data, sizeof(int32_t), stream), "cudaMallocAsync");
  std::shared_ptr<void> owner(data, [stream](void* p) { cudaFreeAsync(p, stream); });
  cuda::check(cudaMemsetAsync(data, 0, sizeof(int32_t), stream), "cudaMemsetAsync");
  return owner;
}

}  // namespace

NcclLink::NcclLink(std::unique_ptr<Group> control, Backend& backend, const NcclSettings& settings, bool use_copies)
    : control_(std::move(control)), backend_(backend), settings_(settings), use_copies_(use_copies) {}

NcclLink::~NcclLink() = default;

std::unique_ptr<NcclLink::Channel> NcclLink::meet(const QueueKey& queue, const std::string& label, int64_t timeout_ms) {
  auto channel = std::make_unique<Channel>();
  const bool is_collective = queue.peer < 0;
  if (is_collective ? control_->rank() == 0 : queue.outgoing) *channel->id = new_nccl_id();
  enter_thread();
  if (queue.outgoing) channel->gate = MessageGate::make(*channel->id);
  const Tensor id = as_tensor(channel->id);
  const std::string purpose = label + ", connecting GPUs";
  control_->set_options({timeout_ms, /*tracer=*/nullptr});
  channel->id_exchanged = is_collective    ? control_->broadcast(id, 0, purpose)
                          : queue.outgoing ? control_->send(id, queue.peer, queue.tag, purpose)
                                           : control_->recv(id, queue.peer, queue.tag, purpose);
  return channel;
}

/// Of a message, who sends is rank 0 and who receives rank 1.
std::unique_ptr<Communicator> NcclLink::begin_to_connect(const QueueKey& queue, const ncclUniqueId& id,
                                                         int64_t timeout_ms) const {
  NcclSettings settings = settings_;
  settings.timeout_ms = timeout_ms;
  const std::string group = fmt::format("group '{}'", control_->name());
  if (queue.peer < 0) return std::make_unique<Communicator>(group, id, control_->rank(), control_->size(), settings);
  if (settings.ctas == 0) settings.ctas = kMessageCtas;
  const std::string purpose = fmt::format("messages {} rank {} in {}", queue.outgoing ? "to" : "from",
                                          control_->world_rank(queue.peer), group);
  return std::make_unique<Communicator>(purpose, id, queue.outgoing ? 0 : 1, 2, settings);
}

Communicator* NcclLink::find(const QueueKey& queue, const std::string& label, int64_t timeout_ms) {
  auto found = channels_.find(queue);
  if (found == channels_.end()) found = channels_.emplace(queue, meet(queue, label, timeout_ms)).first;
  Channel& channel = *found->second;
  if (!channel.communicator) {
    if (!channel.id_exchanged.done()) return nullptr;
    channel.id_exchanged.wait();  // throws what went wrong
    enter_thread();
    if (queue.peer >= 0 && !queue.outgoing) channel.gate = MessageGate::join(*channel.id);
    channel.communicator = begin_to_connect(queue, *channel.id, timeout_ms);
  }
  if (!channel.communicator->connected()) return nullptr;
  if (channel.gate && !channel.gate->joined()) channel.gate.reset();
  if (queue.peer < 0 && use_copies_) {
    if (!copies_) copies_ = std::make_unique<PeerCopies>(*control_, backend_, label + ", connecting copy engines");
    if (!copies_->is_decided()) return nullptr;
  }
  if (queue.peer < 0 && !zero_) zero_ = make_zero(settings_.device, cuda::raw_stream(channel.communicator->stream()));
  return channel.communicator.get();
}

/// Messages pass their gates by the number.
Communicator* NcclLink::capturing(const QueueKey& queue, OpKind kind) const {
  const auto found = channels_.find(queue);
  if (queue.peer >= 0 || found == channels_.end() || !zero_) return nullptr;
  Communicator* communicator = found->second->communicator.get();
  return communicator->can_capture(kind) ? communicator : nullptr;
}

void NcclLink::enter_thread() { cuda::check(cudaSetDevice(settings_.device), "cudaSetDevice"); }

Work NcclLink::meeting_of(const QueueKey& queue) const {
  const auto found = channels_.find(queue);
  if (found == channels_.end()) return Work();
  return queue.peer < 0 && copies_ ? copies_->meeting() : found->second->id_exchanged;
}

bool NcclLink::has_results() { return !copies_ || !copies_->is_given_up(); }

void NcclLink::check() {
  for (const auto& [queue, channel] : channels_)
    if (channel->communicator) channel->communicator->check();
}

void NcclLink::abort() noexcept {
  if (copies_) copies_->abort();
  for (const auto& [queue, channel] : channels_) {
    if (channel->gate) channel->gate->open();
    if (channel->communicator) channel->communicator->abort();
  }
}

}  // namespace trireme::comm
