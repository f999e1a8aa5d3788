#include "parallel/mesh.h"

#include <fmt/format.h>

#include <algorithm>

#include "comm/solo_group.h"
#include "core/error.h"

namespace trireme {
namespace {

constexpr int64_t kMostRanks = int64_t{1} << 31;  // MPI counts them in 32 bits
constexpr std::array<std::string_view, kNumAxes> kNames{"data", "context", "expert", "pipeline", "tensor"};

}  // namespace

std::string_view name_of(Axis axis) {
  return kNames[static_cast<size_t>(axis)];
}

int64_t MeshShape::ranks() const {
  int64_t n = 1;
  for (int64_t s : sizes) n *= s;
  return n;
}

std::array<int64_t, kNumAxes> MeshShape::coords_of(int64_t rank) const {
  std::array<int64_t, kNumAxes> coords{};
  for (auto axis = order.rbegin(); axis != order.rend(); rank /= size(*axis), ++axis)
    coords[static_cast<size_t>(*axis)] = rank % size(*axis);
  return coords;
}

int64_t MeshShape::rank_of(const std::array<int64_t, kNumAxes>& coords) const {
  int64_t rank = 0;
  for (const Axis axis : order) rank = rank * size(axis) + coords[static_cast<size_t>(axis)];
  return rank;
}

namespace {

std::array<Axis, kNumAxes> parse_order(const std::vector<std::string>& names) {
  std::array<Axis, kNumAxes> order{};
  std::array<bool, kNumAxes> seen{};
  bool fine = names.size() == kNumAxes;
  for (size_t i = 0; fine && i < kNumAxes; ++i) {
    const auto found = std::find(kNames.begin(), kNames.end(), names[i]);
    fine = found != kNames.end() && !seen[static_cast<size_t>(found - kNames.begin())];
    if (!fine) break;
    seen[static_cast<size_t>(found - kNames.begin())] = true;
    order[i] = static_cast<Axis>(found - kNames.begin());
  }
  if (!fine)
    throw ConfigError(fmt::format("parallel.order = [{}] must name each of {} once", fmt::join(names, ", "),
                                  fmt::join(kNames, ", ")));
  return order;
}

/// The counts of ranks near `ranks` that `model_ranks` divides.
std::string ranks_that_work(int64_t ranks, int64_t model_ranks) {
  const int64_t below = ranks / model_ranks * model_ranks, above = below + model_ranks;
  return below > 0 ? fmt::format("{} or {}", below, above) : fmt::format("{}", above);
}

}  // namespace

MeshShape plan_mesh(const ParallelConfig& config, int64_t ranks) {
  MeshShape shape{{config.data, config.context, config.expert, config.pipeline, config.tensor},
                  parse_order(config.order)};
  int64_t model_ranks = 1;  // of one replica
  int num_factors = 0;
  std::string factors;
  for (size_t axis = 0; axis < kNumAxes; ++axis) {
    const int64_t size = shape.sizes[axis];
    const bool data = axis == static_cast<size_t>(Axis::data);
    if (size < 0 || (size == 0 && !data))
      throw ConfigError(fmt::format("parallel.{} = {} must be 1 or more", kNames[axis], size));
    if (size > kMostRanks / model_ranks)
      throw ConfigError(fmt::format("parallel: {}{}{} {} is more than {} ranks, and there are {}; choose sizes whose product divides {}",
                                    factors, factors.empty() ? "" : " x ", kNames[axis], size, kMostRanks, ranks, ranks));
    if (data) continue;
    model_ranks *= size;
    if (size == 1) continue;
    factors += fmt::format("{}{} {}", factors.empty() ? "" : " x ", kNames[axis], size);
    ++num_factors;
  }
  if (config.expert > 1)
    throw ConfigError(fmt::format(
        "parallel.expert = {}: the models of this release have no experts; set it to 1", config.expert));
  int64_t& data = shape.sizes[static_cast<size_t>(Axis::data)];
  if (data == 0) {
    if (ranks % model_ranks != 0)
      throw ConfigError(
          fmt::format("parallel: {}{} does not divide {} ranks; launch {} ranks, or choose {} divides {}",
                      factors, num_factors > 1 ? fmt::format(" = {}", model_ranks) : "", ranks,
                      ranks_that_work(ranks, model_ranks),
                      num_factors > 1 ? "sizes whose product" : "a size that", ranks));
    data = ranks / model_ranks;
  }
  if (shape.ranks() != ranks) {
    const bool divides = ranks % model_ranks == 0;
    throw ConfigError(
        fmt::format("parallel: data {}{}{} = {} does not make {} ranks; {}launch {} ranks", data,
                    factors.empty() ? "" : " x ", factors, shape.ranks(), ranks,
                    divides ? fmt::format("set parallel.data to {} (or auto) or ", ranks / model_ranks) : "",
                    shape.ranks()));
  }
  return shape;
}

Mesh::Mesh(const ParallelConfig& config, Group& world)
    : world_(world), shape_(plan_mesh(config, world.size())), coords_(shape_.coords_of(world.rank())) {
  for (size_t axis = 0; axis < kNumAxes; ++axis) {
    if (shape_.sizes[axis] == 1) {
      host_groups_[axis] = std::make_unique<SoloGroup>(std::string(kNames[axis]), world.options());
      continue;
    }
    auto others = coords_;
    others[axis] = 0;  // all ranks of the new group agree on the rest
    host_groups_[axis] =
        world.split(static_cast<int>(shape_.rank_of(others)), static_cast<int>(coords_[axis]), kNames[axis]);
  }
}

Mesh::Mesh(const ParallelConfig& config, Group& world, Backend& backend, const DeviceGroupOptions& options)
    : Mesh(config, world) {
  if (backend.device() == Device{}) return;
  backend_ = &backend;
  mode_ = std::make_shared<std::atomic<CallMode>>(CallMode::normal);
  options_ = options;
  options_.mode = mode_;
  options_.staged = options.staged || !can_connect_gpus(world, backend);
  for (size_t axis = 0; axis < kNumAxes; ++axis) {
    const bool is_tensor = axis == static_cast<size_t>(Axis::tensor);
    device_groups_[axis] = make_device_group(*host_groups_[axis], backend, kNames[axis],
                                             options_for(is_tensor ? Sums::large : Sums::small));
  }
}

DeviceGroupOptions Mesh::options_for(Sums sums) const {
  DeviceGroupOptions options = options_;
  if (sums == Sums::small) options.copy_engines.reset();
  return options;
}

std::unique_ptr<Group> Mesh::make_group(std::initializer_list<Axis> axes, std::string_view name, Sums sums) {
  auto others = coords_;
  for (const Axis axis : axes) others[static_cast<size_t>(axis)] = 0;
  return make_group(shape_.rank_of(others), name, sums);
}

std::unique_ptr<Group> Mesh::make_group(int64_t color, std::string_view name, Sums sums) {
  std::unique_ptr<Group> host = world_.split(static_cast<int>(color), world_.rank(), name);
  return backend_ ? make_device_group(*host, *backend_, name, options_for(sums)) : std::move(host);
}

std::string MeshShape::describe() const {
  std::string text;
  for (const Axis axis : order)
    if (size(axis) > 1) text += fmt::format("{}{} {}", text.empty() ? "" : " x ", name_of(axis), size(axis));
  return text.empty() ? "one rank" : text;
}

}  // namespace trireme
