#include "comm/device_group.h"

#include <fmt/format.h>

#include "comm/device_solo_group.h"
#include "comm/recorded_call.h"

namespace trireme {

bool can_connect_gpus(Group& host, const Backend& backend) {
  return backend.device() != Device{} && host.size() > 1 && comm::have_own_gpus(host, backend.device().index);
}

std::unique_ptr<Group> make_device_group(Group& host, Backend& backend, std::string_view name,
                                         const DeviceGroupOptions& options) {
  if (backend.device() == Device{}) return host.duplicate(name);
  if (host.size() == 1) return std::make_unique<DeviceSoloGroup>(backend, std::string(name), host.options());
  return comm::make_gpu_group(host.duplicate(name), backend, options);
}

namespace comm {
namespace {

bool is_on_host(const Tensor& t) { return t.device() == Device{}; }

}  // namespace

DeviceGroup::DeviceGroup(std::unique_ptr<Group> host, Backend& backend, std::unique_ptr<DeviceLink> link, SharedCallMode mode)
    : Group(host->rank(), host->size(), host->name(), host->options()),
      host_(std::move(host)),
      backend_(backend),
      engine_(std::make_shared<DeviceEngine>(*host_, std::move(link))),
      mode_(std::move(mode)) {}

DeviceGroup::~DeviceGroup() { engine_->close(); }

std::optional<std::string> DeviceGroup::failure() const {
  if (auto reason = engine_->failure()) return reason;
  return host_->failure();
}

/// The host group, with the options that this one has now.
Group& DeviceGroup::host() {
  host_->set_options(options());
  return *host_;
}

Work DeviceGroup::submit(DeviceCall call, std::string_view label, Stream* after) {
  for (const Tensor* t : {&call.input, &call.output})
    TRIREME_ASSERT(!t->defined() || t->device() == backend_.device(),
                   fmt::format("{} '{}': a tensor of {} in a group of {}", name_of(call.kind), label, to_string(t->device()),
                               to_string(backend_.device())));
  const CallMode mode = mode_ ? mode_->load() : CallMode::normal;
  if (mode == CallMode::rehearses) return {};
  if (Recorder* recorder = after ? after->recorder() : nullptr) {
    if (std::optional<Work> work = capture(*recorder, call, text_of(call.kind, label), *after)) return *work;
    std::vector<Tensor> held{std::exchange(call.input, call.input.unowned()), std::exchange(call.output, call.output.unowned())};
    return RecordedCall::record(*recorder, std::move(held), [this, call = std::move(call), label = std::string(label), after] {
      return submit(call, label, after);
    });
  }
  expect_call(call);
  const bool waits = mode == CallMode::waits && call.kind != OpKind::send && call.kind != OpKind::recv;
  if (waits) host().barrier(label).wait();
  std::unique_ptr<Event> ready;
  if (after) {
    ready = backend_.make_event();
    ready->record(*after);
  }
  auto operation = make_operation(std::move(call), label, std::move(ready));
  operation->set_user(after);
  engine_->submit(operation);
  Work work(std::move(operation));
  if (waits) work.wait();
  return work;
}

Work DeviceGroup::do_all_reduce(const Tensor& t, ReduceOp op, std::string_view label, Stream* after) {
  if (is_on_host(t)) return host().all_reduce(t, op, label, after);
  return submit({.kind = OpKind::all_reduce, .input = t, .output = t, .reduce_op = op}, label, after);
}

Work DeviceGroup::do_reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp op, std::string_view label,
                                    Stream* after) {
  if (is_on_host(input)) return host().reduce_scatter(input, output, op, label, after);
  return submit({.kind = OpKind::reduce_scatter, .input = input, .output = output, .reduce_op = op}, label, after);
}

Work DeviceGroup::do_all_gather(const Tensor& input, const Tensor& output, std::string_view label, Stream* after) {
  if (is_on_host(input)) return host().all_gather(input, output, label, after);
  return submit({.kind = OpKind::all_gather, .input = input, .output = output}, label, after);
}

Work DeviceGroup::do_broadcast(const Tensor& t, int root, std::string_view label, Stream* after) {
  if (is_on_host(t)) return host().broadcast(t, root, label, after);
  return submit({.kind = OpKind::broadcast, .input = t, .output = t, .peer = root}, label, after);
}

Work DeviceGroup::do_all_to_all(const Tensor& input, const Tensor& output, std::string_view label, Stream* after) {
  if (is_on_host(input)) return host().all_to_all(input, output, label, after);
  return submit({.kind = OpKind::all_to_all, .input = input, .output = output}, label, after);
}

Work DeviceGroup::do_send(const Tensor& t, int peer, int tag, std::string_view label, Stream* after) {
  if (is_on_host(t)) return host().send(t, peer, tag, label, after);
  return submit({.kind = OpKind::send, .input = t, .peer = peer, .tag = tag}, label, after);
}

Work DeviceGroup::do_recv(const Tensor& t, int peer, int tag, std::string_view label, Stream* after) {
  if (is_on_host(t)) return host().recv(t, peer, tag, label, after);
  return submit({.kind = OpKind::recv, .output = t, .peer = peer, .tag = tag}, label, after);
}

Work DeviceGroup::do_barrier(std::string_view label) { return submit({.kind = OpKind::barrier}, label, nullptr); }

std::unique_ptr<Group> DeviceGroup::do_split(int color, int key, std::string_view name) {
  std::unique_ptr<Group> part = host().split(color, key, name);
  if (part->size() == 1) return std::make_unique<DeviceSoloGroup>(backend_, std::string(name), options());
  return make_like(std::move(part));
}

}  // namespace comm
}  // namespace trireme
