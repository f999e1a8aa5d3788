#include "launcher/choose_device.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "comm/host_tensor.h"
#include "comm/local_ranks.h"
#include "core/backend.h"
#include "core/error.h"
#include "launcher/agree.h"

namespace trireme {
namespace {

constexpr size_t kFields = sizeof(RankPlace) / sizeof(int64_t);

/// What keeps the ranks from a GPU each; nothing when they have them. `share`: threads of one process may have the same.
std::optional<std::string> obstacle(std::span<const RankPlace> places, bool share) {
  for (size_t rank = 0; rank < places.size(); ++rank) {
    if (places[rank].num_gpus < 0)
      return fmt::format("{} has no CUDA: build Trireme where nvcc is found (docs/gpu.md)",
                         places.size() == 1 ? "this build" : fmt::format("the build of rank {}", rank));
    if (places[rank].num_gpus == 0)
      return fmt::format("rank {} sees no NVIDIA GPU (nvidia-smi lists those that the driver sees, CUDA_VISIBLE_DEVICES hides some)",
                         rank);
  }
  std::map<std::pair<int64_t, int64_t>, std::set<int64_t>> users;  // (machine, GPU) -> processes, or ranks
  for (size_t rank = 0; rank < places.size(); ++rank) {
    const RankPlace& place = places[rank];
    auto& of_this_gpu = users[{place.machine, place.gpu}];
    of_this_gpu.insert(share ? place.process : static_cast<int64_t>(rank));
    if (of_this_gpu.size() == 1) continue;
    const auto ranks = std::ranges::count(places, place.machine, &RankPlace::machine);
    return fmt::format("the {} ranks of a machine see {} GPU{}, and two of them would share one; start no more ranks on a "
                       "machine than it has GPUs, or show each rank its own (CUDA_VISIBLE_DEVICES, srun --gpus-per-task=1)",
                       ranks, place.num_gpus, place.num_gpus == 1 ? "" : "s");
  }
  return std::nullopt;
}

/// The driver's device file tells a build without CUDA that there is a GPU.
int64_t without_cuda() { return std::filesystem::exists("/dev/nvidia0") ? RankPlace::kUnusedGpus : RankPlace::kNoCuda; }

}  // namespace

int gpu_index(int local_rank, int num_gpus) { return num_gpus > 0 ? local_rank % num_gpus : 0; }

DeviceChoice plan_device(std::string_view wanted, std::span<const RankPlace> places, int index) {
  if (wanted == "cpu") return {};
  const auto reason = obstacle(places, /*share=*/wanted == "cuda");
  if (!reason) return {{DeviceKind::cuda, index}, ""};
  if (wanted == "cuda") throw ConfigError(fmt::format("run.device: cuda, but {}; or set run.device to cpu", *reason));
  const bool some = std::ranges::any_of(places, [](const RankPlace& place) {
    return place.num_gpus > 0 || place.num_gpus == RankPlace::kUnusedGpus;
  });
  return {Device{}, some ? fmt::format("note: run.device: auto is the CPU here: {}", *reason) : ""};
}

Device choose_device(const std::string& wanted, Group& world) {
  if (wanted == "cpu") return {};
  const int num_gpus = num_cuda_devices();
  const int index = gpu_index(find_local_ranks(world).rank, num_gpus);
  const RankPlace mine{machine_id(), getpid(), built_with_cuda() ? num_gpus : without_cuda(),
                       num_gpus > 0 ? fingerprint(cuda_device_address(index)) : 0};
  auto values = std::bit_cast<std::array<int64_t, kFields>>(mine);
  std::vector<RankPlace> places(static_cast<size_t>(world.size()));
  const std::span all(reinterpret_cast<int64_t*>(places.data()), places.size() * kFields);
  world.all_gather(wrap_host(std::span<int64_t>(values)), wrap_host(all), "devices").wait();
  const DeviceChoice choice = agree(world, "devices chosen", [&] { return plan_device(wanted, places, index); });
  if (world.rank() == 0 && !choice.note.empty()) fmt::print("{}\n", choice.note);
  return choice.device;
}

}  // namespace trireme
