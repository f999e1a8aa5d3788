#include "launcher/loaded_model.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "launcher/train_state.h"
#include "models/model_json.h"

namespace trireme {

std::filesystem::path find_checkpoint(const std::filesystem::path& path) {
  return resolve_checkpoint(path, [](const std::string& line) { fmt::print(stderr, "{}\n", line); });
}

LoadedModel load_model(const std::filesystem::path& path, const DeviceOptions& device) {
  LoadedModel loaded;
  loaded.checkpoint = find_checkpoint(path);
  CheckpointReader reader(loaded.checkpoint);
  loaded.model = make_model(model_from_json(reader.section("model"), loaded.checkpoint.string()));
  loaded.engine = std::make_unique<Engine>(make_backend(device));
  Context ctx = loaded.context();
  const auto parameters = loaded.model->parameters();
  loaded.buckets = plan_buckets(parameters, size_t{32} << 20);
  allocate_weights(ctx, loaded.buckets);
  load_weights(reader, ctx, parameters);
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
