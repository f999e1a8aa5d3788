#include "optim/cuda/kernels.h"

#include "optim/device_kernels.h"

namespace trireme {

void add_device_kernels(Backend& backend) {
  cuda::add_adamw_kernel(backend);
  cuda::add_sgd_kernel(backend);
  cuda::add_lion_kernel(backend);
  cuda::add_adafactor_kernel(backend);
  cuda::add_guard_kernel(backend);
}

}  // namespace trireme
