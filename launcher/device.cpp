#include "launcher/device.h"

#include <CLI/CLI.hpp>

#include "launcher/choose_device.h"
#include "launcher/option_check.h"

namespace trireme {

void add_device_options(CLI::App& command, DeviceOptions& options) {
  command.add_option("--device", options.device, "auto: a GPU where there is one")->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command.add_option("--threads", options.threads, "Threads of the host to compute with; 0: all cores")
      ->check(at_least_option(0));
}

std::unique_ptr<Backend> make_backend(const DeviceOptions& options, Group& world) {
  const Device device = choose_device(options.device, world);
  return device.kind == DeviceKind::cuda ? make_cuda_backend({.index = device.index}) : make_cpu_backend(options.threads);
}

}  // namespace trireme
