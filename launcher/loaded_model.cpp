#include "launcher/loaded_model.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include <nlohmann/json.hpp>

#include "launcher/option_check.h"
#include "launcher/train_state.h"
#include "models/model_json.h"

namespace trireme {

std::filesystem::path find_checkpoint(const std::filesystem::path& path) {
  return resolve_checkpoint(path, [](const std::string& line) { fmt::print(stderr, "{}\n", line); });
}

void add_layout_options(CLI::App& command, LayoutOptions& options) {
  command.add_option("--tensor", options.tensor, "Ranks that share each matrix, of those that mpirun or srun started")
      ->check(at_least_option(1))->capture_default_str();
  command.add_option("--pipeline", options.pipeline, "Ranks that share the layers")->check(at_least_option(1))->capture_default_str();
}

LoadedModel load_model(const std::filesystem::path& path, const DeviceOptions& device, const LayoutOptions& layout,
                       ModelUse use, int64_t sequence, Group& world) {
  LoadedModel loaded;
  loaded.checkpoint = find_checkpoint(path);
  CheckpointReader reader(loaded.checkpoint);
  const ModelConfig config = model_from_json(reader.section("model"), loaded.checkpoint.string());
  ParallelConfig parallel;
  parallel.tensor = layout.tensor;
  parallel.pipeline = layout.pipeline;
  parallel.context = layout.context;
  if (sequence == 0) sequence = config.context;
  if (sequence > config.context)
    throw ConfigError(fmt::format("--sequence {} is longer than the model's context of {}", sequence, config.context));
  ParallelPlan plan = plan_parallel(config, parallel, {.micro = 1, .sequence = sequence, .micro_batches = 1}, world.size());
  loaded.engine = std::make_unique<Engine>(make_backend(device, world));
  loaded.mesh = std::make_unique<Mesh>(parallel, world, loaded.engine->backend());
  loaded.model = std::make_unique<ParallelModel>(config, parallel, std::move(plan), *loaded.mesh, use);
  Context ctx = loaded.context();
  loaded.buckets = plan_buckets(loaded.model->parameters(), size_t{32} << 20);
  allocate_weights(ctx, loaded.buckets);
  load_weights(reader, ctx, loaded.model->parameters());
  return loaded;
}

std::string tokenizer_of(const std::filesystem::path& checkpoint) {
  const CheckpointReader reader(checkpoint);
  if (!reader.has_section("tokenizer")) return "";
  const std::string name = reader.section("tokenizer").get<std::string>();
  if (name.empty() || name == "bytes") return name;
  // The file lies in the run's folder, above the checkpoint; a checkpoint that was moved may carry it along.
  for (const auto& folder : {std::filesystem::absolute(checkpoint).parent_path(), checkpoint})
    if (std::filesystem::exists(folder / name)) return (folder / name).string();
  return std::filesystem::exists(name) ? name : "";
}

}  // namespace trireme
