// The optimizers' kernels of devices other than the host: those of optim/cuda/, or of its twin optim/no_cuda/.
#pragma once

#include "core/backend.h"

namespace trireme {

/// ConfigError when this build has none for the backend's device.
void add_device_kernels(Backend& backend);

}  // namespace trireme
