// NcclLink: the communicators of one group. Collectives have one; messages have one for each peer, tag and direction:
// NCCL runs what is called on one communicator in order, and a receive that waits must not hold up anything else. Each is
// connected when its first operation is called, so a group that is never used costs nothing; and since the ranks first
// meet through the host group, one that stays away then is known by name.
#pragma once

#include <map>
#include <memory>

#include "comm/device_engine.h"
#include "comm/nccl/communicator.h"
#include "comm/nccl/message_gate.h"
#include "comm/nccl/peer_copies.h"

namespace trireme::comm {

class NcclLink final : public DeviceLink {
 public:
  /// `control` has the group's ranks; it is for this link's own messages.
  /// With `use_copies` collectives may go by copy engines, where the GPUs allow it.
  NcclLink(std::unique_ptr<Group> control, Backend& backend, const NcclSettings& settings, bool use_copies);
  ~NcclLink() override;

  /// The communicator of a queue; null while it is connecting (asking again goes on with that). `label` is what its first
  /// operation is for.
  Communicator* find(const QueueKey& queue, const std::string& label, int64_t timeout_ms);
  /// Of a connected queue.
  Communicator* communicator(const QueueKey& queue) const { return channels_.at(queue)->communicator.get(); }
  /// The communicator of a queue whose next call it may record; null where it may not, as before it is connected.
  Communicator* capturing(const QueueKey& queue, OpKind kind) const;
  /// That messages of a connected queue pass before they are launched; null where there is none.
  MessageGate* gate(const QueueKey& queue) const { return channels_.at(queue)->gate.get(); }
  /// What runs large ones of the connected collectives in place of their communicator; null where nothing does.
  PeerCopies* copies() const { return copies_ && copies_->connected() ? copies_.get() : nullptr; }
  /// The message by which the ranks of this queue's communicator meet; done when none is under way.
  Work meeting_of(const QueueKey& queue) const;
  /// Device memory of one i32, 0; once the collectives' communicator is connected.
  void* zero() const { return zero_.get(); }

  void enter_thread() override;
  void check() override;
  bool has_results() override;
  void abort() noexcept override;

 private:
  struct Channel {
    std::shared_ptr<ncclUniqueId> id = std::make_shared<ncclUniqueId>();
    Work id_exchanged;
    std::unique_ptr<MessageGate> gate;  // goes after what uses it
    std::unique_ptr<Communicator> communicator;
  };
  std::unique_ptr<Channel> meet(const QueueKey& queue, const std::string& label, int64_t timeout_ms);
  std::unique_ptr<Communicator> begin_to_connect(const QueueKey& queue, const ncclUniqueId& id, int64_t timeout_ms) const;

  std::unique_ptr<Group> control_;
  Backend& backend_;
  NcclSettings settings_;
  const bool use_copies_;
  std::map<QueueKey, std::unique_ptr<Channel>> channels_;
  std::unique_ptr<PeerCopies> copies_;
  std::shared_ptr<void> zero_;  // goes before its stream
};

}  // namespace trireme::comm
