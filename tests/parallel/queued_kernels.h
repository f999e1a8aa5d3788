// Kernels of the host on a FakeDevice: they run when their turn in the stream comes, and keep no tensor alive
// until then, as on a GPU. So a missing wait shows as a wrong result.
#pragma once

#include <memory>
#include <tuple>

#include "core/context.h"
#include "tests/comm/fake_device.h"

namespace trireme {

/// The same memory, owned by nobody.
inline Tensor unowned(const Tensor& t) {
  if (!t.defined()) return t;
  return {std::make_shared<Storage>(std::shared_ptr<void>(), t.raw(), t.bytes()), 0, t.shape(), t.dtype(),
          Device{}};
}
template <class T>
T unowned(const T& value) {
  return value;
}

template <class Kernel, class Fn = typename Kernel::Fn>
struct QueuedKernel;
template <class Kernel, class... Arguments>
struct QueuedKernel<Kernel, void(Context&, Arguments...)> {
  static void run(Context& ctx, Arguments... arguments) {
    auto& host = ctx.backend->state<Engine>();
    static_cast<FakeStream&>(*ctx.stream).queue([&host, held = std::tuple(unowned(arguments)...)]() mutable {
      Context host_ctx = host.context();
      std::apply([&](auto&... args) { host.backend().kernel<Kernel>()(host_ctx, args...); }, held);
    });
  }
};

/// A device with the given kernels of the host.
template <class... Kernels>
std::unique_ptr<FakeDevice> make_fake_device(int index) {
  auto device = std::make_unique<FakeDevice>(index);
  device->add_state(std::make_shared<Engine>(make_cpu_backend(1)));
  (device->template add_kernel<Kernels>(&QueuedKernel<Kernels>::run), ...);
  return device;
}

}  // namespace trireme
