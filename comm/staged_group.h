// StagedGroup: a group of device memory whose tensors travel through host memory: copied to pinned buffers, exchanged by
// a host group, copied back. For GPUs without NCCL, for several ranks on one GPU, and so for tests; not for speed.
//
// It keeps what a host group promises: sums in the order of the ranks, queues that do not wait for each other, and
// disagreements noticed at once. Work::wait(stream) blocks the host until the exchange is over.
#pragma once

#include <map>
#include <vector>

#include "comm/device_group.h"

namespace trireme::comm {

/// The exchange, and the buffers between device and host.
class StagedLink final : public DeviceLink {
 public:
  StagedLink(std::unique_ptr<Group> exchange, Backend& backend);
  ~StagedLink() override;

  void enter_thread() override;
  /// The host group, with these options.
  Group& exchange(const GroupOptions& options);
  Backend& backend() { return backend_; }
  Stream& stream() { return *stream_; }  // of all copies

  /// A tensor in pinned memory like `t`; undefined when that is.
  Tensor like(const Tensor& t);
  void give_back(const Tensor& t);  // nothing uses it any more

 private:
  std::unique_ptr<Group> exchange_;
  Backend& backend_;
  std::unique_ptr<Stream> stream_;
  struct Buffer {
    size_t bytes;
    std::shared_ptr<void> data;
  };
  std::map<const void*, Buffer> lent_;
  std::multimap<size_t, std::shared_ptr<void>> free_;  // by bytes
};

class StagedGroup final : public DeviceGroup {
 public:
  /// Collective over `host`, which has two ranks or more. `backend` outlives the group.
  static std::unique_ptr<StagedGroup> make(std::unique_ptr<Group> host, Backend& backend, SharedCallMode mode = {});

 private:
  StagedGroup(std::unique_ptr<Group> host, std::unique_ptr<Group> exchange, Backend& backend, SharedCallMode mode);
  std::shared_ptr<DeviceOperation> make_operation(DeviceCall call, std::string_view label,
                                                  std::unique_ptr<Event> after) override;
  std::unique_ptr<Group> make_like(std::unique_ptr<Group> host) override;
};

}  // namespace trireme::comm
