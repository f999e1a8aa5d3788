#include "launcher/start_point.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <string>

#include "models/model_json.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kReadingTimeoutMs = int64_t{6} * 3600 * 1000;  // rank 0 may have to read a large checkpoint

void log(const std::string& line) { fmt::print("{}\n", line); }

/// Rank 0's text on all ranks.
std::string share(std::string text, Group& world) {
  const auto broadcast = [&](void* data, size_t bytes) {
    const auto storage = std::make_shared<Storage>(nullptr, data, bytes);
    world.broadcast(Tensor(storage, 0, {static_cast<int64_t>(bytes)}, DType::u8, Device{}), 0, "the checkpoint to start from").wait();
  };
  std::array<int64_t, 1> length{static_cast<int64_t>(text.size())};
  broadcast(length.data(), sizeof length);
  text.resize(static_cast<size_t>(length[0]));
  if (length[0] > 0) broadcast(text.data(), text.size());
  return text;
}

fs::path choose_resume_point(const Config& config) {
  const fs::path out = config.run.out;
  if (fs::is_directory(out)) clean_leftovers(out);
  const std::string& resume = config.checkpoint.resume;
  if (resume == "never") return {};
  if (resume != "auto") return resolve_checkpoint(resume, log);
  return choose_resume(out, log).value_or(fs::path());
}

}  // namespace

StartPoint choose_start(const Config& config, Group& world) {
  const GroupOptions options = world.options();
  world.set_options({kReadingTimeoutMs, options.tracer});
  std::string resume, init_from;
  if (world.rank() == 0) {
    resume = choose_resume_point(config).string();
    if (resume.empty() && !config.checkpoint.init_from.empty())
      init_from = resolve_checkpoint(config.checkpoint.init_from, log).string();
    set_aside_newer(config.run.out, resume.empty() ? 0 : CheckpointReader(resume).step(), log);
  }
  StartPoint start;
  if (const std::string path = share(resume, world); !path.empty()) start.resume = path;
  if (const std::string path = share(init_from, world); !path.empty()) start.init_from = path;
  world.set_options(options);
  return start;
}

void check_same_model(const CheckpointReader& reader, const ModelConfig& config) {
  if (!reader.has_section("model")) return;  // made by other means: the shapes will tell
  const nlohmann::json there = reader.section("model"), here = model_to_json(config);
  std::string differences;
  for (const auto& [key, value] : here.items()) {
    if (key == "dropout" || key == "true_vocab" || !there.contains(key) || there[key] == value) continue;
    differences += fmt::format("{}model.{} = {} there, {} here", differences.empty() ? "" : "; ", key, there[key].dump(), value.dump());
  }
  if (!differences.empty())
    throw ConfigError(fmt::format("{}: holds another model: {}; make the config say the same, or start anew with "
                                  "checkpoint.resume: never",
                                  reader.folder().string(), differences));
}

}  // namespace trireme
