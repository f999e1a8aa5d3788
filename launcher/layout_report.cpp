#include "launcher/layout_report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "comm/host_tensor.h"
#include "comm/local_ranks.h"
#include "launcher/agree.h"
#include "launcher/memory_check.h"

namespace trireme {
namespace {

constexpr size_t kNameBytes = 64;

/// What a rank tells the others.
struct Note {
  std::array<char, kNameBytes> host{};
  int32_t device_index = -1;  // of a GPU
};
static_assert(sizeof(Note) % sizeof(int32_t) == 0);

}  // namespace

std::vector<RankHome> gather_homes(Group& world, Device device) {
  Note mine;
  gethostname(mine.host.data(), kNameBytes - 1);
  if (device.kind != DeviceKind::cpu) mine.device_index = device.index;
  std::vector<Note> all(static_cast<size_t>(world.size()));
  constexpr size_t kWords = sizeof(Note) / sizeof(int32_t);
  world
      .all_gather(wrap_host(std::span(reinterpret_cast<int32_t*>(&mine), kWords)),
                  wrap_host(std::span(reinterpret_cast<int32_t*>(all.data()), kWords * all.size())), "hosts")
      .wait();
  std::vector<RankHome> homes;
  for (const Note& note : all)
    homes.push_back({std::string(note.host.data()),
                     note.device_index < 0 ? "" : fmt::format("cuda:{}", note.device_index)});
  return homes;
}

double memory_of_rank(const Backend& backend, Group& world) {
  const bool shared = backend.device().kind == DeviceKind::cpu;  // by the ranks of this machine
  const int sharers = shared ? find_local_ranks(world).size : 1;
  return static_cast<double>(backend.memory_bytes()) / sharers;
}

void refuse_too_large(const RunPlan& plan, const Backend& backend, Group& world) {
  const double bytes = memory_of_rank(backend, world);
  agree(world, "memory compared", [&] {
    if (bytes > 0) check_memory(plan, bytes);
  });
}

}  // namespace trireme
