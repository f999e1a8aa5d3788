// Stands in for cuda/ in a build without CUDA.
#include <fmt/format.h>

#include "core/error.h"
#include "optim/device_kernels.h"

namespace trireme {

void add_device_kernels(Backend& backend) {
  throw ConfigError(fmt::format("run.device: this build has no optimizer for {}; set run.device to cpu, or build where nvcc is installed",
                                to_string(backend.device())));
}

}  // namespace trireme
