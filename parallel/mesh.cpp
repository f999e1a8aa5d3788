#include "parallel/mesh.h"

#include <fmt/format.h>

#include "comm/solo_group.h"
#include "core/error.h"

namespace trireme {
namespace {

constexpr std::array<std::string_view, kNumAxes> kNames{"data", "context", "expert", "pipeline", "tensor"};

}  // namespace

std::string_view name_of(Axis axis) { return kNames[static_cast<size_t>(axis)]; }

int64_t MeshShape::ranks() const {
  int64_t n = 1;
  for (int64_t s : sizes) n *= s;
  return n;
}

std::array<int64_t, kNumAxes> MeshShape::coords_of(int64_t rank) const {
  std::array<int64_t, kNumAxes> coords{};
  for (size_t axis = kNumAxes; axis-- > 0; rank /= sizes[axis]) coords[axis] = rank % sizes[axis];
  return coords;
}

int64_t MeshShape::rank_of(const std::array<int64_t, kNumAxes>& coords) const {
  int64_t rank = 0;
  for (size_t axis = 0; axis < kNumAxes; ++axis) rank = rank * sizes[axis] + coords[axis];
  return rank;
}

MeshShape plan_mesh(const ParallelConfig& config, int64_t ranks) {
  MeshShape shape{{config.data, config.context, config.expert, config.pipeline, config.tensor}};
  for (size_t axis = 0; axis < kNumAxes; ++axis) {
    const int64_t size = shape.sizes[axis];
    if (size < 0 || (size == 0 && axis != static_cast<size_t>(Axis::data)))
      throw ConfigError(fmt::format("parallel.{} = {} must be 1 or more", kNames[axis], size));
    if (size > 1 && axis != static_cast<size_t>(Axis::data))
      throw ConfigError(fmt::format("parallel.{} = {}: this release divides work over the data axis alone; set it to 1",
                                    kNames[axis], size));
  }
  int64_t& data = shape.sizes[static_cast<size_t>(Axis::data)];
  if (data == 0) data = ranks;
  if (shape.ranks() != ranks)
    throw ConfigError(fmt::format("parallel: data = {} does not make {} ranks; set parallel.data to {} (or auto) or launch {} ranks",
                                  data, ranks, ranks, shape.ranks()));
  return shape;
}

Mesh::Mesh(const ParallelConfig& config, Group& world)
    : shape_(plan_mesh(config, world.size())), coords_(shape_.coords_of(world.rank())) {
  for (size_t axis = 0; axis < kNumAxes; ++axis) {
    if (shape_.sizes[axis] == 1) {
      host_groups_[axis] = std::make_unique<SoloGroup>(std::string(kNames[axis]), world.options());
      continue;
    }
    auto others = coords_;
    others[axis] = 0;  // all ranks of the new group agree on the rest
    host_groups_[axis] = world.split(static_cast<int>(shape_.rank_of(others)), static_cast<int>(coords_[axis]), kNames[axis]);
  }
}

Mesh::Mesh(const ParallelConfig& config, Group& world, Backend& backend, const DeviceGroupOptions& options)
    : Mesh(config, world) {
  if (backend.device() == Device{}) return;
  for (size_t axis = 0; axis < kNumAxes; ++axis)
    device_groups_[axis] = make_device_group(*host_groups_[axis], backend, kNames[axis], options);
}

std::string Mesh::describe() const {
  std::string text;
  for (size_t axis = 0; axis < kNumAxes; ++axis)
    if (shape_.sizes[axis] > 1) text += fmt::format("{}{} {}", text.empty() ? "" : " x ", kNames[axis], shape_.sizes[axis]);
  return text.empty() ? "one rank" : text;
}

}  // namespace trireme
