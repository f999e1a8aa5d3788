#include "optim/kernels.h"

#include "optim/cpu/kernels.h"
#include "optim/device_kernels.h"

namespace trireme {

void register_optimizer_kernels(Backend& backend) {
  if (backend.device().kind != DeviceKind::cpu) return add_device_kernels(backend);
  cpu::add_adamw_kernel(backend);
  cpu::add_sgd_kernel(backend);
  cpu::add_lion_kernel(backend);
  cpu::add_adafactor_kernel(backend);
  cpu::add_guard_kernel(backend);
}

}  // namespace trireme
