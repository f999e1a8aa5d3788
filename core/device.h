// Where memory lies: the host, or one accelerator of this process.
#pragma once

#include <cstdint>
#include <string>

namespace trireme {

enum class DeviceKind : uint8_t { cpu, cuda };

struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

std::string to_string(Device device);  // "cpu", "cuda:1"

}  // namespace trireme
