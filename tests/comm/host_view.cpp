#include "tests/comm/host_view.h"

#include <atomic>

namespace trireme {
namespace {

/// Device memory and a stream of one view.
class Copies {
 public:
  explicit Copies(Backend& backend)
      : backend_(backend), allocator_(std::make_shared<Allocator>(backend)), stream_(backend.make_stream()) {}
  Stream& stream() { return *stream_; }
  Tensor upload(const Tensor& t) {
    const Tensor copy(allocator_->allocate(t.bytes(), MemoryClass::workspace), 0, t.shape(), t.dtype(), backend_.device());
    if (t.bytes() > 0) backend_.copy(copy.raw(), t.raw(), t.bytes(), *stream_);
    return copy;
  }
  /// `part` on the device: where it lies in `whole`, a view of `whole_copy`.
  Tensor upload_part(const Tensor& part, const Tensor& whole, const Tensor& whole_copy) {
    const auto* begin = static_cast<const std::byte*>(whole.raw());
    const auto* own = static_cast<const std::byte*>(part.raw());
    if (part.bytes() == 0 || own < begin || own >= begin + whole.bytes()) return upload(part);
    return whole_copy.flat_view((own - begin) / static_cast<int64_t>(size_of(part.dtype())), part.shape());
  }
  void download(const Tensor& from, const Tensor& to) {
    if (to.bytes() > 0) backend_.copy(to.raw(), from.raw(), to.bytes(), *stream_);
  }
  bool next_wait_is_the_streams() { return num_waits_++ % 2 == 0; }

 private:
  Backend& backend_;
  std::shared_ptr<Allocator> allocator_;
  std::unique_ptr<Stream> stream_;
  int num_waits_ = 0;
};

class ViewedWork final : public Work::State {
 public:
  ViewedWork(Work work, std::shared_ptr<Copies> copies, Tensor on_device, Tensor on_host)
      : work_(std::move(work)), copies_(std::move(copies)), on_device_(std::move(on_device)), on_host_(std::move(on_host)) {}
  bool done() const override { return copied_ || work_.done(); }
  void wait() override {
    if (!copied_ && copies_->next_wait_is_the_streams()) {
      work_.wait(copies_->stream());
    } else {
      work_.wait();
    }
    if (std::exchange(copied_, true)) return;
    if (on_host_.defined()) copies_->download(on_device_, on_host_);
    copies_->stream().synchronize();
    on_device_ = on_host_ = Tensor();
  }

 private:
  Work work_;
  std::shared_ptr<Copies> copies_;
  Tensor on_device_, on_host_;
  bool copied_ = false;
};

class HostView final : public Group {
 public:
  HostView(std::unique_ptr<Group> group, Backend& backend)
      : Group(group->rank(), group->size(), group->name(), group->options()),
        backend_(backend),
        copies_(std::make_shared<Copies>(backend)),
        group_(std::move(group)) {}

  int world_rank(int rank) const override { return group_->world_rank(rank); }
  std::optional<std::string> failure() const override { return group_->failure(); }

 private:
  Tensor upload(const Tensor& t, Stream* after) {
    if (after) after->synchronize();
    return copies_->upload(t);
  }
  Stream* stream() { return &copies_->stream(); }
  Work view(Work work, const Tensor& on_device, const Tensor& on_host) {
    return Work(std::make_shared<ViewedWork>(std::move(work), copies_, on_device, on_host));
  }

  Work do_all_reduce(const Tensor& t, ReduceOp op, std::string_view label, Stream* after) override {
    const Tensor copy = upload(t, after);
    return view(group_->all_reduce(copy, op, label, stream()), copy, t);
  }
  Work do_reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp op, std::string_view label,
                         Stream* after) override {
    const Tensor from = upload(input, after), to = copies_->upload_part(output, input, from);
    return view(group_->reduce_scatter(from, to, op, label, stream()), to, output);
  }
  Work do_all_gather(const Tensor& input, const Tensor& output, std::string_view label, Stream* after) override {
    const Tensor to = upload(output, after), from = copies_->upload_part(input, output, to);
    return view(group_->all_gather(from, to, label, stream()), to, output);
  }
  Work do_broadcast(const Tensor& t, int root, std::string_view label, Stream* after) override {
    const Tensor copy = upload(t, after);
    return view(group_->broadcast(copy, root, label, stream()), copy, t);
  }
  Work do_all_to_all(const Tensor& input, const Tensor& output, std::string_view label, Stream* after) override {
    const Tensor from = upload(input, after), to = copies_->upload(output);
    return view(group_->all_to_all(from, to, label, stream()), to, output);
  }
  Work do_send(const Tensor& t, int peer, int tag, std::string_view label, Stream* after) override {
    const Tensor copy = upload(t, after);
    return view(group_->send(copy, peer, tag, label, stream()), copy, {});
  }
  Work do_recv(const Tensor& t, int peer, int tag, std::string_view label, Stream* after) override {
    const Tensor copy = upload(t, after);
    return view(group_->recv(copy, peer, tag, label, stream()), copy, t);
  }
  Work do_barrier(std::string_view label) override { return group_->barrier(label); }
  std::unique_ptr<Group> do_split(int color, int key, std::string_view name) override {
    return view_from_host(group_->split(color, key, name), backend_);
  }

  Backend& backend_;
  std::shared_ptr<Copies> copies_;  // goes after the group
  std::unique_ptr<Group> group_;
};

}  // namespace

std::unique_ptr<Group> view_from_host(std::unique_ptr<Group> device_group, Backend& backend) {
  return std::make_unique<HostView>(std::move(device_group), backend);
}

}  // namespace trireme
