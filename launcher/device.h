// Which device a command computes on, and the backend for it.
#pragma once

#include <memory>
#include <string>

#include "comm/group.h"
#include "core/backend.h"

namespace CLI {
class App;
}

namespace trireme {

struct DeviceOptions {
  std::string device = "auto";  // auto | cpu | cuda; auto: a GPU where there is one
  int threads = 0;              // of the host; 0: OMP_NUM_THREADS, or all cores
};

/// --device and --threads of a command.
void add_device_options(CLI::App& command, DeviceOptions& options);

/// The backend of this rank's GPU or of the host (see choose_device). Collective over `world`.
std::unique_ptr<Backend> make_backend(const DeviceOptions& options, Group& world);

}  // namespace trireme
