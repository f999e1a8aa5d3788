#include "launcher/train_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/ops/elementwise.h"
#include "optim/split_master.h"

namespace trireme {
namespace {

/// The elements of `t` in host memory.
Tensor on_host(Context& ctx, const Tensor& t, std::vector<std::byte>& copy) {
  if (t.device().kind == DeviceKind::cpu) return t;
  copy.resize(t.bytes());
  ctx.backend->copy(copy.data(), t.raw(), copy.size(), *ctx.stream);
  ctx.stream->synchronize();
  return {std::make_shared<Storage>(nullptr, copy.data(), copy.size()), 0, t.shape(), t.dtype(), Device{}};
}

std::string state_name(const std::string& slot, const Parameter& parameter) {
  return "optim." + slot + "." + parameter.name;
}

/// Of a shard; undefined where there is none.
Tensor master_of(const OptimizerState& optimizer, size_t shard) {
  for (const auto& flat : optimizer.flat)
    if (flat.slot == "master" && flat.shard == shard) return flat.values;
  return {};
}

/// Whether it is the half of masters that the data lacks.
bool is_split(const Tensor& master) { return master.defined() && master.dtype() == DType::u16; }

/// Calls visit(parameter, slice of the global parameter, where its elements begin in the shard) for what the elements
/// [begin, end) of `shard` are.
template <class F>
void for_each_slice(const Shard& shard, int64_t begin, int64_t end, F&& visit) {
  for (const Shard::Segment& s : shard.segments) {
    const int64_t first = std::max(begin, s.begin), last = std::min(end, s.end);
    if (first >= last) continue;
    const int64_t shift = s.begin - s.parameter_begin;  // from the parameter's elements to the shard's
    for (const PlacedSlice& placed : slices_of(*s.parameter, first - shift, last - shift))
      visit(*s.parameter, placed, placed.begin + shift);
  }
}

/// Reads a slice into device memory, converting to the tensor's type.
void read_into(CheckpointReader& reader, Context& ctx, const std::string& name, const Slice& slice, const Tensor& to) {
  std::vector<std::byte> host(to.bytes());
  reader.read(name, slice, to.dtype(), host);
  ctx.backend->copy(to.raw(), host.data(), host.size(), *ctx.stream);
  ctx.stream->synchronize();
}

/// The masters whose halves these are, [n] in host memory.
Tensor joined_on_host(Context& ctx, const Tensor& data, const Tensor& rest, std::vector<std::byte>& copy) {
  std::vector<std::byte> data_copy, rest_copy;
  const auto high = on_host(ctx, data, data_copy).span<bf16>();
  const auto low = on_host(ctx, rest, rest_copy).span<uint16_t>();
  copy.resize(high.size() * sizeof(float));
  const Tensor masters(std::make_shared<Storage>(nullptr, copy.data(), copy.size()), 0, data.shape(), DType::f32, Device{});
  for (size_t i = 0; i < high.size(); ++i)
    masters.span<float>()[i] = std::bit_cast<float>(join_master(high[i].bits, low[i]));
  return masters;
}

/// Reads masters into their halves in device memory.
void read_halves(CheckpointReader& reader, Context& ctx, const std::string& name, const Slice& slice, const Tensor& data,
                 const Tensor& rest) {
  std::vector<float> masters(static_cast<size_t>(data.numel()));
  reader.read<float>(name, slice, masters);
  std::vector<uint16_t> high(masters.size()), low(masters.size());
  for (size_t i = 0; i < masters.size(); ++i) {
    const uint32_t bits = settle_master(std::bit_cast<uint32_t>(masters[i]));
    high[i] = round_master(bits);
    low[i] = rest_of_master(bits, high[i]);
  }
  ctx.backend->copy(data.raw(), high.data(), data.bytes(), *ctx.stream);
  ctx.backend->copy(rest.raw(), low.data(), rest.bytes(), *ctx.stream);
  ctx.stream->synchronize();
}

[[noreturn]] void refuse_other_optimizer(const CheckpointReader& reader, const std::string& why) {
  throw ConfigError(fmt::format("{}: {}: it was made with another optimizer; make the optim section say the same, or "
                                "start a new run from its weights (another run.out, and this as checkpoint.init_from)",
                                reader.folder().string(), why));
}

/// Reads optimizer state by its name in the checkpoint.
void read_state(CheckpointReader& reader, Context& ctx, const std::string& name, const Slice& slice, const Tensor& to) {
  if (!reader.has(name)) refuse_other_optimizer(reader, "holds no " + name);
  read_into(reader, ctx, name, slice, to);
}

}  // namespace

void check_same_optimizer(const CheckpointReader& reader, const TrainProgress& progress, const OptimConfig& config) {
  if (!progress.optimizer.empty() && progress.optimizer != config.kind)
    refuse_other_optimizer(reader, fmt::format("optim.kind = {} there, {} here", progress.optimizer, config.kind));
}

void save_state(CheckpointWriter& writer, Context& ctx, std::span<const Shard> shards, const OptimizerState& optimizer,
                WriteShare share) {
  std::vector<std::byte> copy;
  // `part_of(first, count)` gives elements of the shard in host memory.
  const auto add_flat = [&](const Shard& shard, auto&& name_of_parameter, auto&& part_of) {
    const int64_t n = shard.data.numel();
    const int64_t begin = share.replicated ? n * share.index / share.count : 0;
    const int64_t end = share.replicated ? n * (share.index + 1) / share.count : n;
    for_each_slice(shard, begin, end, [&](const Parameter& p, const PlacedSlice& placed, int64_t first) {
      if (placed.primary) writer.add(name_of_parameter(p), placed.slice, part_of(first, placed.slice.numel()));
    });
  };
  const auto parts_of = [&](const Tensor& values) {
    return [&ctx, &copy, values](int64_t first, int64_t count) { return on_host(ctx, values.flat_view(first, {count}), copy); };
  };
  const auto own_name = [](const Parameter& p) { return p.name; };
  for (size_t i = 0; i < shards.size(); ++i) {
    const Tensor &data = shards[i].data, master = master_of(optimizer, i);
    if (is_split(master))
      add_flat(shards[i], own_name, [&](int64_t first, int64_t count) {
        return joined_on_host(ctx, data.flat_view(first, {count}), master.flat_view(first, {count}), copy);
      });
    else
      add_flat(shards[i], own_name, parts_of(master.defined() ? master : data));
  }
  for (const auto& flat : optimizer.flat)
    if (flat.slot != "master")
      add_flat(shards[flat.shard], [&](const Parameter& p) { return state_name(flat.slot, p); }, parts_of(flat.values));
  if (share.index == 0)
    for (const auto& whole : optimizer.whole)
      if (whole.parameter->placement.primary)
        writer.add(state_name(whole.slot, *whole.parameter), Slice::whole(whole.values.shape()), on_host(ctx, whole.values, copy));
  if (!share.scalars) return;
  for (const auto& scalar : optimizer.scalars)
    writer.add("optim." + scalar.name, Slice::whole(scalar.value.shape()), on_host(ctx, scalar.value, copy));
}

void load_weights(CheckpointReader& reader, Context& ctx, std::span<Parameter* const> parameters) {
  for (Parameter* p : parameters) {
    if (reader.shape(p->name) != p->global_shape())
      throw ConfigError(fmt::format("{}: {} has shape {} there and {} in this model; check the model section",
                                    reader.folder().string(), p->name, to_string(reader.shape(p->name)),
                                    to_string(p->global_shape())));
    for (const PlacedSlice& placed : slices_of(*p))
      read_into(reader, ctx, p->name, placed.slice, p->data.flat_view(placed.begin, {placed.slice.numel()}));
  }
}

void load_state(CheckpointReader& reader, Context& ctx, std::span<const Shard> shards, const OptimizerState& optimizer) {
  for (const auto& flat : optimizer.flat) {
    const Shard& shard = shards[flat.shard];
    for_each_slice(shard, 0, flat.values.numel(), [&](const Parameter& p, const PlacedSlice& placed, int64_t first) {
      const auto part = [&](const Tensor& all) { return all.flat_view(first, {placed.slice.numel()}); };
      if (flat.slot != "master")
        read_state(reader, ctx, state_name(flat.slot, p), placed.slice, part(flat.values));
      else if (is_split(flat.values))
        read_halves(reader, ctx, p.name, placed.slice, part(shard.data), part(flat.values));
      else
        read_into(reader, ctx, p.name, placed.slice, part(flat.values));
    });
  }
  for (const auto& whole : optimizer.whole)
    read_state(reader, ctx, state_name(whole.slot, *whole.parameter), Slice::whole(whole.values.shape()), whole.values);
  for (const auto& scalar : optimizer.scalars)
    read_state(reader, ctx, "optim." + scalar.name, Slice::whole(scalar.value.shape()), scalar.value);
}

void save_progress(CheckpointWriter& writer, const TrainProgress& p) {
  writer.set_section("trainer", {{"step", p.step},
                                 {"tokens", p.tokens},
                                 {"skipped", p.skipped},
                                 {"seed", p.seed},
                                 {"global_batch", p.global_batch},
                                 {"sequence", p.sequence},
                                 {"optimizer", p.optimizer}});
}

TrainProgress load_progress(const CheckpointReader& reader) {
  const nlohmann::json json = reader.section("trainer");
  TrainProgress p;
  try {
    json.at("step").get_to(p.step);
    json.at("tokens").get_to(p.tokens);
    json.at("skipped").get_to(p.skipped);
    json.at("seed").get_to(p.seed);
    json.at("global_batch").get_to(p.global_batch);
    json.at("sequence").get_to(p.sequence);
    p.optimizer = json.value("optimizer", "");
  } catch (const nlohmann::json::exception& e) {
    throw ConfigError(reader.folder().string() + ": section trainer: " + e.what());
  }
  return p;
}

}  // namespace trireme
