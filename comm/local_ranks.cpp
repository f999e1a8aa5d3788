#include "comm/local_ranks.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <fstream>
#include <vector>

#include "comm/host_tensor.h"

namespace trireme {

/// FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/
int64_t fingerprint(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return std::bit_cast<int64_t>(hash);
}

int64_t machine_id() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  std::string boot;  // empty where the kernel does not say
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  return fingerprint(std::string(name.data()) + "\n" + boot);
}

LocalRanks find_local_ranks(Group& group) {
  std::array<int64_t, 1> mine{machine_id()};
  std::vector<int64_t> all(static_cast<size_t>(group.size()));
  group.all_gather(wrap_host(std::span<int64_t>(mine)), wrap_host(std::span(all)), "machines").wait();
  return {static_cast<int>(std::count(all.begin(), all.begin() + group.rank(), mine[0])),
          static_cast<int>(std::ranges::count(all, mine[0]))};
}

}  // namespace trireme
