#include "launcher/loaded_model.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include <nlohmann/json.hpp>

#include "launcher/agree.h"
#include "launcher/layout_report.h"
#include "launcher/memory_check.h"
#include "launcher/option_check.h"
#include "launcher/train_state.h"
#include "models/model_json.h"

namespace trireme {
namespace {

/// What a model that is only used is made of.
struct Chosen {
  CheckpointReader reader;
  ModelConfig config;
  ParallelPlan plan;
};

Chosen choose(const std::filesystem::path& path, const ParallelConfig& parallel, int64_t sequence, const Group& world) {
  const auto say = [&](const std::string& line) {
    if (world.rank() == 0) fmt::print(stderr, "{}\n", line);
  };
  CheckpointReader reader(resolve_checkpoint(path, say));
  ModelConfig config = model_from_json(reader.section("model"), reader.folder().string());
  if (sequence == 0) sequence = config.context;
  if (sequence > config.context)
    throw ConfigError(fmt::format("--sequence {} is longer than the model's context of {}", sequence, config.context));
  if (parallel.context > 1 && sequence % (2 * parallel.context) != 0)
    throw ConfigError(fmt::format("--context {}: {} tokens do not divide into {} chunks of one length; choose a --context of which "
                                  "the double divides {}",
                                  parallel.context, sequence, 2 * parallel.context, sequence));
  ParallelPlan plan = plan_parallel(config, parallel, {.micro = 1, .sequence = sequence, .micro_batches = 1}, world.size());
  return {std::move(reader), std::move(config), std::move(plan)};
}

}  // namespace

std::filesystem::path find_checkpoint(const std::filesystem::path& path) {
  return resolve_checkpoint(path, [](const std::string& line) { fmt::print(stderr, "{}\n", line); });
}

void add_layout_options(CLI::App& command, LayoutOptions& options) {
  command.add_option("--tensor", options.tensor, "Ranks that share each matrix, of those that mpirun or srun started")
      ->check(at_least_option(1))->capture_default_str();
  command.add_option("--pipeline", options.pipeline, "Ranks that share the layers")->check(at_least_option(1))->capture_default_str();
  command.add_option("--context", options.context, "Ranks that share the tokens of each text")
      ->check(at_least_option(1))->capture_default_str();
}

LoadedModel load_model(const std::filesystem::path& path, const DeviceOptions& device, const LayoutOptions& layout,
                       InferenceUse use, int64_t sequence, Group& world) {
  ParallelConfig parallel;
  parallel.tensor = layout.tensor;
  parallel.pipeline = layout.pipeline;
  parallel.context = layout.context;
  Chosen chosen = agree(world, "model chosen", [&] { return choose(path, parallel, sequence, world); });
  LoadedModel loaded;
  loaded.checkpoint = chosen.reader.folder();
  loaded.engine = std::make_unique<Engine>(make_backend(device, world));
  const double available = memory_of_rank(loaded.engine->backend(), world);
  agree(world, "memory compared",
        [&] { check_inference_memory(chosen.config, chosen.plan, use == InferenceUse::generation, available); });
  loaded.mesh = std::make_unique<Mesh>(parallel, world, loaded.engine->backend());
  loaded.model =
      std::make_unique<ParallelModel>(chosen.config, parallel, std::move(chosen.plan), *loaded.mesh, ModelUse::inference);
  Context ctx = loaded.context();
  loaded.buckets = plan_buckets(loaded.model->parameters(), size_t{32} << 20);
  allocate_weights(ctx, loaded.buckets);
  agree(world, "weights read", [&] { load_weights(chosen.reader, ctx, loaded.model->parameters()); });
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
