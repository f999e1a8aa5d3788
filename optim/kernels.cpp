#include "optim/kernels.h"

#include <fmt/format.h>

#include "optim/cpu/kernels.h"

namespace trireme {

void register_optimizer_kernels(Backend& backend) {
  const Device device = backend.device();
  if (device.kind != DeviceKind::cpu)
    throw ConfigError(fmt::format(
        "run.device: the optimizers have no kernels for {} yet; set run.device to cpu", to_string(device)));
  cpu::add_adamw_kernel(backend);
  cpu::add_sgd_kernel(backend);
  cpu::add_lion_kernel(backend);
  cpu::add_adafactor_kernel(backend);
  cpu::add_guard_kernel(backend);
}

}  // namespace trireme
