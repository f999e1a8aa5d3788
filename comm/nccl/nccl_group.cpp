#include "comm/nccl/nccl_group.h"

#include <array>
#include <set>

#include "comm/host_tensor.h"
#include "comm/local_ranks.h"
#include "comm/nccl/nccl_call.h"
#include "comm/staged_group.h"

namespace trireme::comm {
namespace {

class NcclOperation final : public DeviceOperation {
 public:
  NcclOperation(NcclLink& link, Backend& backend, int num_ranks, CopyOrder* order, DeviceCall call, std::string_view label,
                const GroupOptions& options, std::unique_ptr<Event> after)
      : DeviceOperation(std::move(call), label, options, std::move(after), backend.make_event()),
        link_(link),
        backend_(backend),
        num_ranks_(num_ranks),
        turn_(order && PeerCopies::takes(call_) ? order->take_turn() : nullptr) {
    limited_ = true;
  }

 private:
  bool issue() override {
    Communicator* communicator = link_.find(queue, label, options.timeout_ms);
    if (!communicator) return false;
    if (PeerCopies* copies = turn_ ? link_.copies() : nullptr) return issue(*copies);
    turn_.reset();
    Stream& stream = communicator->stream();
    if (!launching_) {
      if (after_) after_->wait(stream);
      begin_ = backend_.make_event();
      begin_->record(stream);
      if (MessageGate* gate = link_.gate(queue)) gate->pass(cuda::raw_stream(stream));
      if (bytes > 0 || call_.kind == OpKind::barrier)
        communicator->launch(call_.kind, text(), [&](ncclComm_t comm, cudaStream_t s) { return call_nccl(call_, num_ranks_, link_.zero(), comm, s); });
      launching_ = true;
    }
    if (!communicator->launched()) return false;
    end_->record(stream);
    return true;
  }

  bool issue(PeerCopies& copies) {
    if (!turn_->has_come()) return false;
    if (!begin_) {
      begin_ = backend_.make_event();
      copies.begin(call_, after_.get(), *begin_);
    }
    if (!copies.go_on(call_, *end_)) return false;
    turn_.reset();
    return true;
  }

  void leave() noexcept override { turn_.reset(); }

  std::optional<Failure> host_failure() override { return begin_ ? std::nullopt : failure_of(link_.meeting_of(queue)); }

  NcclLink& link_;  // goes with the group, and so does the use of it
  Backend& backend_;
  const int num_ranks_;
  std::unique_ptr<CopyOrder::Turn> turn_;  // while copies may run it, and are not all queued
  bool launching_ = false;
};

}  // namespace

NcclGroup::NcclGroup(std::unique_ptr<Group> host, Backend& backend, const DeviceGroupOptions& options,
                     std::unique_ptr<NcclLink> link)
    : DeviceGroup(std::move(host), backend, std::move(link), options.mode),
      device_options_(options),
      nccl_link_(static_cast<NcclLink&>(DeviceGroup::link())) {}

std::unique_ptr<NcclGroup> NcclGroup::make(std::unique_ptr<Group> host, Backend& backend,
                                           const DeviceGroupOptions& options) {
  const NcclSettings settings{.device = backend.device().index, .ctas = options.nccl_ctas};
  auto link = std::make_unique<NcclLink>(host->duplicate(host->name()), backend, settings,
                                         options.copy_engines != nullptr);
  return std::unique_ptr<NcclGroup>(new NcclGroup(std::move(host), backend, options, std::move(link)));
}

std::shared_ptr<DeviceOperation> NcclGroup::make_operation(DeviceCall call, std::string_view label,
                                                           std::unique_ptr<Event> after) {
  return std::make_shared<NcclOperation>(nccl_link_, backend(), size(), device_options_.copy_engines.get(),
                                         std::move(call), label, options(), std::move(after));
}

/// The communicator on whose stream this call may be captured; null where it is to be called.
Communicator* NcclGroup::capturing(const DeviceCall& call) {
  Communicator* communicator = nullptr;
  engine().use_idle(call.queue(), [&] {
    if (!copies_of(call))
      communicator = nccl_link_.capturing(call.queue(), call.kind);
    else if (device_options_.captures_copies)
      communicator = nccl_link_.communicator(call.queue());
  });
  return communicator;
}

/// What runs it in place of NCCL; null where nothing does.
PeerCopies* NcclGroup::copies_of(const DeviceCall& call) const {
  return PeerCopies::takes(call) ? nccl_link_.copies() : nullptr;
}

std::optional<Work> NcclGroup::capture(Recorder& recorder, const DeviceCall& call, const std::string& text, Stream& stream) {
  Communicator* const communicator = recorder.takes_branches() ? capturing(call) : nullptr;
  if (!communicator) return std::nullopt;
  // The first time that a step is recorded, what waits for the device may do so: no exchange is under way then.
  if (!progress_) progress_ = std::make_shared<ReplayProgress>(backend());
  std::optional<Work> work;
  engine().use_idle(call.queue(), [&] {
    auto recorded = being_recorded();
    if (!recorded) {
      recorded = std::make_shared<RecordedCollectives>(*this, engine(), backend(), *communicator, device_options_.copy_engines,
                                                       progress_, recorder, stream);
      recorder.add(recorded);
      recorded_ = recorded;
    }
    if (PeerCopies* copies = copies_of(call))
      work = recorded->add(call, text, *copies);
    else if (!recorded->is_full())
      work = recorded->add(call, text, size(), nccl_link_.zero());
  });
  return work;
}

/// The stream of collectives takes no call while they are recorded.
void NcclGroup::expect_call(const DeviceCall& call) {
  if (const auto recorded = being_recorded(); recorded && call.queue() == QueueKey{}) recorded->recorder().need_pieces();
}

std::shared_ptr<RecordedCollectives> NcclGroup::being_recorded() const {
  auto recorded = recorded_.lock();
  return recorded && recorded->is_recorded() ? recorded : nullptr;
}

std::unique_ptr<Group> NcclGroup::make_like(std::unique_ptr<Group> host) {
  return make_gpu_group(std::move(host), backend(), device_options_);
}

/// NCCL refuses two ranks on one GPU. (Devices of tests are not on the machine.)
bool have_own_gpus(Group& host, int device) {
  const std::string address = device < num_cuda_devices() ? cuda_device_address(device) : "";
  std::array<int64_t, 2> mine{machine_id(), fingerprint(address)};
  std::vector<int64_t> all(mine.size() * static_cast<size_t>(host.size()));
  host.all_gather(wrap_host(std::span<int64_t>(mine)), wrap_host(std::span(all)), "GPUs").wait();
  std::set<std::pair<int64_t, int64_t>> gpus;
  for (size_t i = 0; i < all.size(); i += mine.size()) gpus.emplace(all[i], all[i + 1]);
  return gpus.size() == static_cast<size_t>(host.size());
}

std::unique_ptr<Group> make_gpu_group(std::unique_ptr<Group> host, Backend& backend, const DeviceGroupOptions& options) {
  if (!options.staged && have_own_gpus(*host, backend.device().index)) return NcclGroup::make(std::move(host), backend, options);
  backend.add_note("tensors of GPUs go between ranks through host memory, which is slow: ranks share a GPU");
  return StagedGroup::make(std::move(host), backend, options.mode);
}

}  // namespace trireme::comm
