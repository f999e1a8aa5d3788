// NcclLink: the communicators of one group. Collectives have one; messages have one for each peer, tag and direction,
// made when the first is sent: NCCL runs what is called on one communicator in order, and a receive that waits must not
// hold up anything else.
#pragma once

#include <map>
#include <memory>

#include "comm/device_engine.h"
#include "comm/nccl/communicator.h"

namespace trireme::comm {

class NcclLink final : public DeviceLink {
 public:
  /// Connects all ranks of `control`, a group for this link's own messages. Collective; blocks.
  NcclLink(std::unique_ptr<Group> control, const NcclSettings& settings);
  ~NcclLink() override;

  /// The communicator of this queue; null while its two ranks are still connecting (asking again goes on with that).
  /// `label` is what the first message is for.
  Communicator* find(const QueueKey& queue, const std::string& label, int64_t timeout_ms);
  /// Device memory for one i32, 0.
  void* zero() const { return zero_.get(); }

  void check() override;
  void abort() noexcept override;

 private:
  /// Between this rank and a peer, in one direction.
  struct Channel {
    std::shared_ptr<ncclUniqueId> id = std::make_shared<ncclUniqueId>();
    Work id_exchanged;
    std::unique_ptr<Communicator> communicator;
  };

  std::unique_ptr<Group> control_;
  NcclSettings settings_;
  std::unique_ptr<Communicator> collectives_;
  std::shared_ptr<void> zero_;
  std::map<QueueKey, std::unique_ptr<Channel>> channels_;
};

}  // namespace trireme::comm
