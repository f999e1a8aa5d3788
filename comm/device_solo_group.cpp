#include "comm/device_solo_group.h"

namespace trireme {
namespace {

/// What is queued on a stream.
class StreamWork final : public Work::State {
 public:
  StreamWork(Backend& backend, Stream& stream) : backend_(backend), stream_(stream) {}
  bool done() const override {
    if (!event_) {
      event_ = backend_.make_event();
      event_->record(stream_);
    }
    return event_->done();
  }
  void wait() override { stream_.synchronize(); }
  void wait(Stream& stream) override {
    if (&stream == &stream_) return;
    const std::unique_ptr<Event> event = backend_.make_event();
    event->record(stream_);
    event->wait(stream);
  }

 private:
  Backend& backend_;
  Stream& stream_;
  mutable std::unique_ptr<Event> event_;
};

bool is_on_host(const Tensor& t) { return t.device() == Device{}; }

}  // namespace

DeviceSoloGroup::DeviceSoloGroup(Backend& backend, std::string name, GroupOptions options)
    : Group(0, 1, std::move(name), options), backend_(backend) {}

Work DeviceSoloGroup::done_after(Stream* stream) {
  return stream ? Work(std::make_shared<StreamWork>(backend_, *stream)) : Work();
}

Work DeviceSoloGroup::copy(const Tensor& from, const Tensor& to, Stream* after) {
  if (from.raw() == to.raw() || from.bytes() == 0) return done_after(after);
  if (after) {
    backend_.copy(to.raw(), from.raw(), from.bytes(), *after);
    return done_after(after);
  }
  const std::unique_ptr<Stream> own = backend_.make_stream();
  backend_.copy(to.raw(), from.raw(), from.bytes(), *own);
  own->synchronize();
  return {};
}

Work DeviceSoloGroup::do_all_reduce(const Tensor& t, ReduceOp op, std::string_view label, Stream* after) {
  return is_on_host(t) ? host_.all_reduce(t, op, label, after) : done_after(after);
}

Work DeviceSoloGroup::do_broadcast(const Tensor& t, int root, std::string_view label, Stream* after) {
  return is_on_host(t) ? host_.broadcast(t, root, label, after) : done_after(after);
}

Work DeviceSoloGroup::do_reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp op, std::string_view label,
                                        Stream* after) {
  return is_on_host(input) ? host_.reduce_scatter(input, output, op, label, after) : copy(input, output, after);
}

Work DeviceSoloGroup::do_all_gather(const Tensor& input, const Tensor& output, std::string_view label, Stream* after) {
  return is_on_host(input) ? host_.all_gather(input, output, label, after) : copy(input, output, after);
}

Work DeviceSoloGroup::do_all_to_all(const Tensor& input, const Tensor& output, std::string_view label, Stream* after) {
  return is_on_host(input) ? host_.all_to_all(input, output, label, after) : copy(input, output, after);
}

Work DeviceSoloGroup::do_send(const Tensor&, int, int, std::string_view, Stream*) {
  throw InternalError("send: one rank has no peers");
}

Work DeviceSoloGroup::do_recv(const Tensor&, int, int, std::string_view, Stream*) {
  throw InternalError("recv: one rank has no peers");
}

std::unique_ptr<Group> DeviceSoloGroup::do_split(int, int, std::string_view name) {
  return std::make_unique<DeviceSoloGroup>(backend_, std::string(name), options());
}

}  // namespace trireme
