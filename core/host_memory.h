// How much memory of this machine the process may have.
#pragma once

#include <cstddef>
#include <filesystem>

namespace trireme {

/// Bytes of all memory, or the least limit of the control groups that the process is in (containers and batch systems set
/// them), if that is less. The files are those of Linux, version 2 of control groups and 1.
/// https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max)
size_t host_memory_bytes(const std::filesystem::path& own_groups = "/proc/self/cgroup",
                         const std::filesystem::path& groups = "/sys/fs/cgroup");

}  // namespace trireme
