#include "comm/staged_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace trireme::comm {
namespace {

constexpr size_t kSmallestBuffer = 4096;  // bytes; sizes are powers of two, so that few are made

class StagedOperation final : public DeviceOperation {
 public:
  StagedOperation(StagedLink& link, DeviceCall call, std::string_view label, const GroupOptions& options,
                  std::unique_ptr<Event> after)
      : DeviceOperation(std::move(call), label, options, std::move(after), link.backend().make_event()),
        link_(link),
        copied_(link.backend().make_event()) {}

 private:
  enum class Step : uint8_t { waiting, copying, exchanging };

  bool issue() override {
    if (step_ == Step::waiting) {
      if (after_ && !after_->done()) return false;
      note_begin(Clock::now());
      copy_out();
      step_ = Step::copying;
    }
    if (step_ == Step::copying) {
      if (!copied_->done()) return false;
      work_ = exchange();
      step_ = Step::exchanging;
    }
    if (!work_.done()) return false;
    work_.wait();  // throws what went wrong
    copy_back();
    return true;
  }

  std::optional<Failure> host_failure() override { return failure_of(work_); }

  void copy_out() {
    const bool in_place = call_.input.defined() && call_.output.defined() && call_.input.raw() == call_.output.raw() &&
                          call_.input.numel() == call_.output.numel();
    host_input_ = link_.like(call_.input);
    host_output_ = in_place ? host_input_ : link_.like(call_.output);
    copy(call_.input, host_input_);
    copied_->record(link_.stream());
  }

  Work exchange() {
    Group& group = link_.exchange(options);
    switch (call_.kind) {
      case OpKind::all_reduce:
        return group.all_reduce(host_input_, call_.reduce_op, label);
      case OpKind::reduce_scatter:
        return group.reduce_scatter(host_input_, host_output_, call_.reduce_op, label);
      case OpKind::all_gather:
        return group.all_gather(host_input_, host_output_, label);
      case OpKind::broadcast:
        return group.broadcast(host_input_, call_.peer, label);
      case OpKind::all_to_all:
        return group.all_to_all(host_input_, host_output_, label);
      case OpKind::send:
        return group.send(host_input_, call_.peer, call_.tag, label);
      case OpKind::recv:
        return group.recv(host_output_, call_.peer, call_.tag, label);
      case OpKind::barrier:
        return group.barrier(label);
    }
    throw InternalError("an operation of no kind");
  }

  void copy_back() {
    copy(host_output_, call_.output);
    end_->record(link_.stream());
  }

  void copy(const Tensor& from, const Tensor& to) {
    if (from.defined() && to.defined() && from.bytes() > 0)
      link_.backend().copy(to.raw(), from.raw(), from.bytes(), link_.stream());
  }

  void release() override {
    link_.give_back(std::exchange(host_input_, {}));
    link_.give_back(std::exchange(host_output_, {}));
    DeviceOperation::release();
  }

  StagedLink& link_;  // goes with the group, and so does the use of it
  Step step_ = Step::waiting;
  Tensor host_input_, host_output_;
  std::unique_ptr<Event> copied_;  // to the host
  Work work_;                      // of the host group
};

}  // namespace

StagedLink::StagedLink(std::unique_ptr<Group> exchange, Backend& backend)
    : exchange_(std::move(exchange)), backend_(backend), stream_(backend.make_stream()) {}

StagedLink::~StagedLink() {
  exchange_.reset();  // before the buffers that its messages may still be written to
  try {
    stream_->synchronize();
  } catch (const Error&) {  // the device is lost, and who uses it hears of that
  }
}

/// A backend makes its device the current one when it is asked for something of that device.
void StagedLink::enter_thread() { static_cast<void>(backend_.make_event()); }

Group& StagedLink::exchange(const GroupOptions& options) {
  exchange_->set_options({options.timeout_ms, /*tracer=*/nullptr});  // the operation has a span of its own
  return *exchange_;
}

Tensor StagedLink::like(const Tensor& t) {
  if (!t.defined()) return {};
  const size_t bytes = std::max(kSmallestBuffer, std::bit_ceil(t.bytes()));
  std::shared_ptr<void> data;
  if (const auto found = free_.find(bytes); found != free_.end()) {
    data = std::move(found->second);
    free_.erase(found);
  } else {
    data = backend_.allocate_host(bytes);
  }
  lent_[data.get()] = {bytes, data};
  auto storage = std::make_shared<Storage>(data, data.get(), t.bytes());
  return Tensor(std::move(storage), 0, t.shape(), t.dtype(), Device{});
}

void StagedLink::give_back(const Tensor& t) {
  if (!t.defined()) return;
  const auto found = lent_.find(t.raw());
  if (found == lent_.end()) return;  // of an operation in place: given back already
  free_.emplace(found->second.bytes, std::move(found->second.data));
  lent_.erase(found);
}

StagedGroup::StagedGroup(std::unique_ptr<Group> host, std::unique_ptr<Group> exchange, Backend& backend, SharedCallMode mode)
    : DeviceGroup(std::move(host), backend, std::make_unique<StagedLink>(std::move(exchange), backend), std::move(mode)) {}

std::unique_ptr<StagedGroup> StagedGroup::make(std::unique_ptr<Group> host, Backend& backend, SharedCallMode mode) {
  std::unique_ptr<Group> exchange = host->duplicate(host->name());
  return std::unique_ptr<StagedGroup>(new StagedGroup(std::move(host), std::move(exchange), backend, std::move(mode)));
}

std::shared_ptr<DeviceOperation> StagedGroup::make_operation(DeviceCall call, std::string_view label,
                                                             std::unique_ptr<Event> after) {
  return std::make_shared<StagedOperation>(static_cast<StagedLink&>(link()), std::move(call), label, options(),
                                           std::move(after));
}

std::unique_ptr<Group> StagedGroup::make_like(std::unique_ptr<Group> host) { return make(std::move(host), backend(), mode()); }

}  // namespace trireme::comm
