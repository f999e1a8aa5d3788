// NcclGroup: a group of GPUs that exchange their memory directly, by NCCL. Where it differs from a host group:
// - sums are formed in NCCL's order; bf16 and f16 are rounded at every addition (ring algorithms), so f32 is the type
//   for sums over many ranks; all ranks do get the same bits (copy engines add in f32 and round once: peer_copies.h)
// - max and min may drop a NaN
// - ranks that call different operations or sizes are not told apart: they time out, or their results are undefined
#pragma once

#include "comm/device_group.h"
#include "comm/nccl/nccl_link.h"
#include "comm/nccl/recorded_collectives.h"

namespace trireme::comm {

class NcclGroup final : public DeviceGroup {
 public:
  /// Collective over `host`, whose ranks all have GPUs of their own. `backend` outlives the group.
  static std::unique_ptr<NcclGroup> make(std::unique_ptr<Group> host, Backend& backend, const DeviceGroupOptions& options);

  /// Whether its large sums and gathers go by copy engines; known once a collective is done.
  bool uses_copies() const { return nccl_link_.copies() != nullptr; }

 private:
  NcclGroup(std::unique_ptr<Group> host, Backend& backend, const DeviceGroupOptions& options,
            std::unique_ptr<NcclLink> link);
  std::shared_ptr<DeviceOperation> make_operation(DeviceCall call, std::string_view label,
                                                  std::unique_ptr<Event> after) override;
  void expect_call(const DeviceCall& call) override;
  std::shared_ptr<RecordedCollectives> being_recorded() const;
  Communicator* capturing(const DeviceCall& call);
  PeerCopies* copies_of(const DeviceCall& call) const;
  std::optional<Work> capture(Recorder& recorder, const DeviceCall& call, const std::string& text, Stream& stream) override;
  std::unique_ptr<Group> make_like(std::unique_ptr<Group> host) override;

  DeviceGroupOptions device_options_;
  NcclLink& nccl_link_;  // the engine's
  std::weak_ptr<RecordedCollectives> recorded_;  // of the last recording
  std::shared_ptr<ReplayProgress> progress_;  // since the first recording
};

}  // namespace trireme::comm
