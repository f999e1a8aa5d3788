// Mesh: the ranks of a job as a grid whose axes are the kinds of parallelism. Unless told otherwise tensor
// ranks are neighbours, then pipeline, expert and context; data ranks lie farthest apart.
#pragma once

#include <array>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

#include "comm/device_group.h"
#include "parallel/parallel_config.h"

namespace trireme {

enum class Axis : uint8_t { data, context, expert, pipeline, tensor };
inline constexpr size_t kNumAxes = 5;
std::string_view name_of(Axis axis);

/// The arithmetic of a mesh, without any communication.
struct MeshShape {
  std::array<int64_t, kNumAxes> sizes{1, 1, 1, 1, 1};
  std::array<Axis, kNumAxes> order{Axis::data, Axis::context, Axis::expert, Axis::pipeline,
                                   Axis::tensor};  // slowest first

  int64_t size(Axis axis) const { return sizes[static_cast<size_t>(axis)]; }
  int64_t ranks() const;
  std::array<int64_t, kNumAxes> coords_of(int64_t rank) const;
  int64_t rank_of(const std::array<int64_t, kNumAxes>& coords) const;
  /// "data 4 x tensor 2": the axes that have more than one rank; "one rank".
  std::string describe() const;
};

/// The mesh for `ranks` ranks; `data` 0 takes what the other axes leave. ConfigError, saying which numbers
/// would work, when they don't divide, for an order that lacks an axis, and for experts, which no model here
/// has.
MeshShape plan_mesh(const ParallelConfig& config, int64_t ranks);

class Mesh {
 public:
  enum class Sums : uint8_t { small, large };  // what a group is made for

  /// Collective over `world`, which must outlive the mesh. Its groups are of host memory.
  Mesh(const ParallelConfig& config, Group& world);
  /// The same, whose groups also take tensors of the backend's device. `backend` must outlive the mesh. The copy engines are
  /// for the tensor axis, and for the groups that are made for large sums.
  Mesh(const ParallelConfig& config, Group& world, Backend& backend, const DeviceGroupOptions& options = {});

  const MeshShape& shape() const { return shape_; }
  int64_t coord(Axis axis) const { return coords_[static_cast<size_t>(axis)]; }
  /// The ranks that differ from this one in `axis` alone, in order of that coordinate.
  Group& group(Axis axis) {
    const auto& on_device = device_groups_[static_cast<size_t>(axis)];
    return on_device ? *on_device : host_group(axis);
  }
  /// Whether groups also take tensors of a device.
  bool is_on_device() const { return backend_; }
  /// What all groups of device memory that this mesh has or made do with calls (comm/device_group.h), for the lifetime of
  /// what comes back.
  [[nodiscard]] CallModeScope call_mode(CallMode mode) { return CallModeScope(mode_, mode); }
  /// The same ranks, for host memory alone: what small vectors of numbers and names need.
  Group& host_group(Axis axis) { return *host_groups_[static_cast<size_t>(axis)]; }
  /// A new group of the ranks that differ from this one in `axes` alone, in the order of the world.
  /// Collective over the world; blocks.
  std::unique_ptr<Group> make_group(std::initializer_list<Axis> axes, std::string_view name, Sums sums = Sums::small);
  /// A new group of the ranks that give the same `color`, in the order of the world. Collective over the
  /// world; blocks.
  std::unique_ptr<Group> make_group(int64_t color, std::string_view name, Sums sums = Sums::small);
  /// Coordinates of this rank.
  const std::array<int64_t, kNumAxes>& coords() const { return coords_; }

 private:
  DeviceGroupOptions options_for(Sums sums) const;

  Group& world_;
  Backend* backend_ = nullptr;  // of a device; null: the host
  std::shared_ptr<std::atomic<CallMode>> mode_;  // null: likewise
  DeviceGroupOptions options_;
  MeshShape shape_;
  std::array<int64_t, kNumAxes> coords_;
  std::array<std::unique_ptr<Group>, kNumAxes> host_groups_;
  std::array<std::unique_ptr<Group>, kNumAxes> device_groups_;  // null where the host's will do
};

}  // namespace trireme
