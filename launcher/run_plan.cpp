#include "launcher/run_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/data/batch_plan.h"
#include "core/error.h"
#include "models/presets.h"

namespace trireme {
namespace {

/// Of a parameter. What is element-wise keeps masters of bf16 in two halves, of which the weights are one.
int64_t optimizer_bytes(const Config& config) {
  const DType dtype = compute_dtype(config.precision);
  const bool is_flat = config.optim.kind != "adafactor", master = config.precision.master && dtype != DType::f32;
  const int64_t moments = config.optim.kind == "adamw" ? 2 : is_flat ? 1 : 0;
  return 4 * moments + (!master ? 0 : is_flat && dtype == DType::bf16 ? 2 : 4);
}

/// "embedding, blocks 0-5" of stage `stage`.
std::string describe_stage(const ParallelPlan& plan, int64_t stage, int64_t layers) {
  const auto [begin, end] = plan.units_of(stage);
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  if (begin == 0) add("embedding");
  const int64_t first = std::max<int64_t>(begin, 1) - 1, last = std::min(end, layers + 1) - 2;
  if (first == last) add(fmt::format("block {}", first));
  if (first < last) add(fmt::format("blocks {}-{}", first, last));
  if (end == layers + 2) add("classifier");
  return text;
}

std::string describe_stages(const ParallelPlan& plan, int64_t pipeline_rank, int64_t layers) {
  std::string text;
  for (int64_t stage = 0; stage < plan.num_stages(); ++stage) {
    if (plan.rank_of(stage) != pipeline_rank) continue;
    const std::string units = describe_stage(plan, stage, layers);
    text += plan.num_stages() == 1 ? units : fmt::format("{}{}: {}", text.empty() ? "" : "; ", stage, units);
  }
  return text;
}

void resolve(RunPlan& plan) {
  Config& config = plan.config;
  check_master(config.precision);
  ModelConfig& model = config.model;
  const DataInfo& info = plan.data;
  if (info.vocab > 0) take_vocab(model, info);
  model = resolve_model(model);
  if (config.batch.sequence == 0) config.batch.sequence = model.context;
  if (config.batch.sequence > model.context)
    throw ConfigError(
        fmt::format("batch.sequence = {} is longer than model.context = {}; make one fit the other",
                    config.batch.sequence, model.context));
}

}  // namespace

std::string in_gib(double bytes) {
  const double value = bytes / 0x1p30;
  return fmt::format("{:.{}f}", value, value < 0.0995 ? 3 : value < 9.995 ? 2 : 1);
}

void take_vocab(ModelConfig& model, const DataInfo& data) {
  if (model.vocab == 0) model.vocab = padded_vocab(data.vocab);
  if (data.vocab > model.vocab)
    throw ConfigError(fmt::format("model.vocab = {} is less than the {} tokens of the data's tokenizer {}; leave it out, or set {}",
                                  model.vocab, data.vocab, data.tokenizer, padded_vocab(data.vocab)));
  if (model.true_vocab == 0) model.true_vocab = data.vocab;
}

RunPlan plan_run(Config config, int64_t ranks, bool needs_data) {
  RunPlan plan;
  plan.config = std::move(config);
  if (needs_data || plan.config.model.vocab == 0) plan.data = read_data_info(plan.config.data);
  resolve(plan);
  const Config& c = plan.config;
  if (c.optim.kind == "adafactor" && c.parallel.tensor > 1)
    throw ConfigError(
        fmt::format("optim.kind: adafactor needs whole matrices, which parallel.tensor = {} divides; use "
                    "adamw, sgd or lion, or "
                    "set parallel.tensor to 1",
                    c.parallel.tensor));
  const int64_t data_ranks = plan_mesh(c.parallel, ranks).size(Axis::data);
  plan.batch = {c.batch.micro, c.batch.sequence,
                plan_batch(c.batch.global, c.batch.micro, data_ranks).micro_batches};
  plan.layout = plan_parallel(c.model, c.parallel, plan.batch, ranks);
  return plan;
}

MemoryNeeds memory_needs(const RunPlan& plan, int64_t pipeline_rank) {
  const DType reduce_type = reduce_dtype(plan.config.precision);
  const bool rounds = reduce_type != DType::f32 && plan.layout.mesh.ranks() > 1;
  const MemorySettings settings{static_cast<int64_t>(size_of(compute_dtype(plan.config.precision))),
                                optimizer_bytes(plan.config),
                                rounds ? static_cast<int64_t>(size_of(reduce_type)) : 0};
  return estimate_memory(plan.config.model, plan.layout, plan.config.parallel.sequence, plan.batch, settings,
                         pipeline_rank);
}

std::string layout_table(const RunPlan& plan, const std::vector<RankHome>& homes) {
  const MeshShape& mesh = plan.layout.mesh;
  std::string text = fmt::format("{:>5}", "rank");
  if (!homes.empty()) text += fmt::format("  {:<16}  {:<7}", "host", "device");
  for (const Axis axis : mesh.order)
    if (mesh.size(axis) > 1) text += fmt::format("  {:>8}", name_of(axis));
  text += fmt::format("  {:>12}  {}\n", "memory (GiB)", "does");
  for (int64_t rank = 0; rank < mesh.ranks(); ++rank) {
    const auto coords = mesh.coords_of(rank);
    const int64_t pipeline = coords[static_cast<size_t>(Axis::pipeline)];
    text += fmt::format("{:>5}", rank);
    if (!homes.empty()) {
      const RankHome& home = homes[static_cast<size_t>(rank)];
      text += fmt::format("  {:<16}  {:<7}", home.host, home.device.empty() ? "cpu" : home.device);
    }
    for (const Axis axis : mesh.order)
      if (mesh.size(axis) > 1) text += fmt::format("  {:>8}", coords[static_cast<size_t>(axis)]);
    text += fmt::format("  {:>12}  {}\n", in_gib(memory_needs(plan, pipeline).total()),
                        describe_stages(plan.layout, pipeline, plan.config.model.layers));
  }
  return text;
}

}  // namespace trireme
