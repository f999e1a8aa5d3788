// DeviceGroup: a Group whose tensors lie in device memory; what make_device_group() makes for a device that works on its
// own. Operations are queued: a call returns at once (but see CallMode), Work::wait(stream) makes a stream wait, and
// Work::wait() the host. Of a stream that is recorded, operations are part of the recording or called anew by each replay
// (comm/recorded_call.h): the group, and memory that is not of the recording, outlive that.
//
// Tensors of host memory go to a host group of the same ranks, so one group serves for both; the two kinds do not wait
// for each other. Device operations of several groups must be called in one order on all ranks, as those of one group.
#pragma once

#include <atomic>

#include "comm/copy_order.h"
#include "comm/device_engine.h"

namespace trireme {

/// What groups of device memory do with calls. On a device, work waits for peers; a host that loads code or looks for memory
/// meanwhile may wait for all that is queued, there and, where ranks are threads of one process, on their GPUs too. It keeps
/// its part of an operation from being queued, and all wait for ever. So what is run for the first time is rehearsed, and at
/// the first sums the ranks meet.
/// https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#lazy-loading-concurrent-execution
enum class CallMode : uint8_t {
  normal,
  waits,      // collectives begin when all hosts are there, and are done when the call returns; messages as ever
  rehearses,  // nothing is exchanged, and what should have come is undefined
};
using SharedCallMode = std::shared_ptr<const std::atomic<CallMode>>;  // null: normal

/// Another mode for its lifetime, then `normal` again.
class CallModeScope {
 public:
  CallModeScope(std::shared_ptr<std::atomic<CallMode>> shared, CallMode mode) : shared_(std::move(shared)) {
    if (shared_) *shared_ = mode;
  }
  ~CallModeScope() {
    if (shared_) *shared_ = CallMode::normal;
  }
  CallModeScope(const CallModeScope&) = delete;
  CallModeScope& operator=(const CallModeScope&) = delete;

 private:
  std::shared_ptr<std::atomic<CallMode>> shared_;
};

struct DeviceGroupOptions {
  int nccl_ctas = 0;    // thread blocks that NCCL takes of the GPU for a communicator; 0: its own choice
  bool staged = false;  // through host memory, whatever there is
  /// What the device's groups share whose large sums and gathers go by copy engines, where NVLink joins all ranks' GPUs,
  /// for 32 MiB of memory a group. They may overlap the group's next operations: what uses a result is called once its
  /// stream waits for that. Null: NCCL does them.
  std::shared_ptr<comm::CopyOrder> copy_engines{};
  bool captures_copies = false;  // they become part of a recording; else they are called between its pieces
  SharedCallMode mode{};
};

/// Whether each of these ranks has a GPU of its own that NCCL can connect. Groups whose ranks overlap should go one way:
/// those of NCCL wait on the device, those through host memory on the host, and together they may wait for each other.
/// Collective; false for the host's own backend.
bool can_connect_gpus(Group& host, const Backend& backend);

/// The ranks of `host`, as a group called `name` for tensors of the backend's device and of the host. For the host's own
/// backend that is host.duplicate(name). On GPUs it is NCCL where this build has it and each rank has a GPU of its own;
/// else tensors go through host memory (comm/staged_group.h). Collective; blocks. The backend outlives the group.
std::unique_ptr<Group> make_device_group(Group& host, Backend& backend, std::string_view name,
                                         const DeviceGroupOptions& options = {});

namespace comm {

/// The same two of a host group of two ranks or more, and a GPU's backend: by comm/nccl/ or comm/no_nccl/.
std::unique_ptr<Group> make_gpu_group(std::unique_ptr<Group> host, Backend& backend, const DeviceGroupOptions& options);
bool have_own_gpus(Group& host, int device);

class DeviceGroup : public Group {
 public:
  ~DeviceGroup() override;

  int world_rank(int rank) const override { return host_->world_rank(rank); }
  std::optional<std::string> failure() const override;
  void fail(const std::string& reason) override { host_->fail(reason); }
  std::vector<int> silent_ranks() const override { return host_->silent_ranks(); }

 protected:
  DeviceGroup(std::unique_ptr<Group> host, Backend& backend, std::unique_ptr<DeviceLink> link, SharedCallMode mode = {});
  Backend& backend() { return backend_; }
  const SharedCallMode& mode() const { return mode_; }
  DeviceEngine& engine() { return *engine_; }
  DeviceLink& link() { return engine_->link(); }

 private:
  virtual std::shared_ptr<DeviceOperation> make_operation(DeviceCall call, std::string_view label,
                                                          std::unique_ptr<Event> after) = 0;
  /// An operation is about to be made that is no part of a recording.
  virtual void expect_call(const DeviceCall&) {}
  /// Makes the operation a part of what is recorded of `stream`; nothing where it can't be.
  virtual std::optional<Work> capture(Recorder&, const DeviceCall&, const std::string& /*text*/, Stream&) { return std::nullopt; }
  /// A group like this one, of the ranks of `host`.
  virtual std::unique_ptr<Group> make_like(std::unique_ptr<Group> host) = 0;

  Work do_all_reduce(const Tensor& t, ReduceOp op, std::string_view label, Stream* after) override;
  Work do_reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp op, std::string_view label,
                         Stream* after) override;
  Work do_all_gather(const Tensor& input, const Tensor& output, std::string_view label, Stream* after) override;
  Work do_broadcast(const Tensor& t, int root, std::string_view label, Stream* after) override;
  Work do_all_to_all(const Tensor& input, const Tensor& output, std::string_view label, Stream* after) override;
  Work do_send(const Tensor& t, int peer, int tag, std::string_view label, Stream* after) override;
  Work do_recv(const Tensor& t, int peer, int tag, std::string_view label, Stream* after) override;
  Work do_barrier(std::string_view label) override;
  std::unique_ptr<Group> do_split(int color, int key, std::string_view name) override;

  Group& host();
  Work submit(DeviceCall call, std::string_view label, Stream* after);

  std::unique_ptr<Group> host_;
  Backend& backend_;
  std::shared_ptr<DeviceEngine> engine_;
  SharedCallMode mode_;
};

}  // namespace comm
}  // namespace trireme
