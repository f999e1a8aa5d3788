// Kernels of the host on a FakeDevice: they run when their turn in the stream comes, and keep no tensor alive
// until then, as on a GPU. So a missing wait shows as a wrong result.
#pragma once

#include <functional>
#include <memory>
#include <tuple>

#include "core/context.h"
#include "core/ops/classifier.h"
#include "core/ops/classifier_part.h"
#include "tests/comm/fake_device.h"

namespace trireme {

/// What a kernel is given, with memory that is owned by nobody.
inline Tensor unowned(const Tensor& t) { return t.unowned(); }
template <class T>
T unowned(const T& value) {
  return value;
}
inline ClassifierArgs unowned(ClassifierArgs args) {
  for (Tensor* t : {&args.h, &args.w, &args.targets, &args.loss_scale, &args.loss, &args.dh, &args.dw}) *t = unowned(*t);
  return args;
}
inline ClassifierPart unowned(ClassifierPart part) {
  for (Tensor* t : {&part.h, &part.w, &part.targets, &part.loss_scale, &part.losses, &part.loss, &part.dh, &part.dw})
    *t = unowned(*t);
  return part;
}
inline ClassifierPartChunk unowned(ClassifierPartChunk chunk) {
  for (Tensor* t : {&chunk.logits, &chunk.sums, &chunk.all_sums}) *t = unowned(*t);
  return chunk;
}

/// A kernel of the host on a device whose queue(stream, task) puts tasks on its streams.
template <class Device, class Kernel, class Fn = typename Kernel::Fn>
struct QueuedKernel;
template <class Device, class Kernel, class... Arguments>
struct QueuedKernel<Device, Kernel, void(Context&, Arguments...)> {
  static void run(Context& ctx, Arguments... arguments) {
    auto& host = ctx.backend->state<Engine>();
    Device::template load<Kernel>();
    Device::queue(*ctx.stream, [&host, held = std::tuple(unowned(arguments)...)]() mutable {
      Context host_ctx = host.context();
      std::apply([&](auto&... args) { host.backend().kernel<Kernel>()(host_ctx, args...); }, held);
    });
  }
};
/// What gives the host a result reads its arguments at once.
template <class Device, class Kernel, class Result, class... Arguments>
struct QueuedKernel<Device, Kernel, Result(Context&, Arguments...)> {
  static Result run(Context& ctx, Arguments... arguments) {
    if (!ctx.stream->recorder()) ctx.stream->synchronize();
    auto& host = ctx.backend->state<Engine>();
    Context host_ctx = host.context();
    return host.backend().kernel<Kernel>()(host_ctx, arguments...);
  }
};

/// Those of `host`.
template <class Device, class... Kernels>
void add_queued_kernels(Backend& device, std::unique_ptr<Backend> host) {
  device.add_state(std::make_shared<Engine>(std::move(host)));
  (device.add_kernel<Kernels>(&QueuedKernel<Device, Kernels>::run), ...);
}

struct OnFakeDevice {
  template <class Kernel>
  static void load() {}
  static void queue(Stream& stream, std::function<void()> task) { static_cast<FakeStream&>(stream).queue(std::move(task)); }
};

/// A device with the given kernels of the host.
template <class... Kernels>
std::unique_ptr<FakeDevice> make_fake_device(int index) {
  auto device = std::make_unique<FakeDevice>(index);
  add_queued_kernels<OnFakeDevice, Kernels...>(*device, make_cpu_backend(1));
  return device;
}

}  // namespace trireme
