#include "core/host_memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace trireme {
namespace {

namespace fs = std::filesystem;

/// The limit in a file; none where it says "max", or is not there.
size_t limit_in(const fs::path& file, size_t otherwise) {
  std::ifstream in(file);
  size_t bytes = 0;
  return in >> bytes ? bytes : otherwise;
}

}  // namespace

size_t host_memory_bytes(const fs::path& own_groups, const fs::path& groups) {
  size_t least = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::ifstream lines(own_groups);  // "0::/path" of version 2, "7:memory:/path" of version 1
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool is_v2 = controllers.empty(), has_memory = ("," + controllers + ",").find(",memory,") != std::string::npos;
    if (!is_v2 && !has_memory) continue;
    const fs::path root = is_v2 ? groups : groups / "memory";
    const char* file = is_v2 ? "memory.max" : "memory.limit_in_bytes";
    // A group obeys the limits of all groups around it too. In a container the path may be one of the host's, which is not there.
    for (fs::path group = fs::path(line.substr(second + 1)).relative_path();; group = group.parent_path()) {
      least = std::min(least, limit_in(root / group / file, least));
      if (group.empty()) break;
    }
  }
  return least;
}

}  // namespace trireme
