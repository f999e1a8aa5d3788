#include "launcher/start_point.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>

#include "comm/scoped_timeout.h"
#include "launcher/agree.h"
#include "launcher/shared_check.h"
#include "models/model_json.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

void log(const std::string& line) { fmt::print("{}\n", line); }

fs::path choose_resume_point(const Config& config, const CheckpointCheck& check) {
  const fs::path out = config.run.out;
  if (fs::is_directory(out))
    clean_leftovers(out);
  else if (fs::exists(out))
    throw ConfigError(fmt::format("run.out = {}: a folder is wanted, but this is a file; choose another", out.string()));
  const std::string& resume = config.checkpoint.resume;
  if (resume == "never") return {};
  if (resume != "auto") return resolve_checkpoint(resume, log, check);
  return choose_resume(out, log, check).value_or(fs::path());
}

/// Those of run.out are set aside when a run begins anew there.
fs::path choose_weights(const Config& config, const CheckpointCheck& check) {
  if (config.checkpoint.init_from.empty()) return {};
  const fs::path found = resolve_checkpoint(config.checkpoint.init_from, log, check);
  std::error_code error;  // "/.": a path may end with a slash
  if (fs::equivalent(fs::weakly_canonical(found / ".").parent_path(), config.run.out, error))
    throw ConfigError(fmt::format("checkpoint.init_from = {}: lies in run.out, where a run that begins anew sets checkpoints aside; "
                                  "choose another run.out",
                                  config.checkpoint.init_from));
  return found;
}

}  // namespace

StartPoint choose_start(const Config& config, Group& world) {
  const ScopedTimeout patience(world, config.checkpoint.timeout_s * 1000);
  SharedCheck shared(world);
  std::string resume, init_from, problem;
  const auto choose = [&] {
    const CheckpointCheck check = [&](const fs::path& checkpoint) { return shared.problem_of(checkpoint); };
    resume = choose_resume_point(config, check).string();
    if (resume.empty()) init_from = choose_weights(config, check).string();
    const int64_t step = resume.empty() ? 0 : CheckpointReader(resume).step();
    if (step >= config.run.steps)
      log(fmt::format("nothing is left to train: {} is at step {} of {}; raise run.steps to go on", resume, step, config.run.steps));
  };
  const char* label = "the checkpoint to start from";
  if (world.rank() == 0) {
    try {
      choose();
    } catch (const ConfigError& error) {
      problem = error.what();
    }
    shared.end();
  } else {
    shared.serve();
  }
  refuse_together(problem, world, label);
  StartPoint start;
  if (const std::string path = share_text(resume, 0, world, label); !path.empty()) start.resume = path;
  if (const std::string path = share_text(init_from, 0, world, label); !path.empty()) start.init_from = path;
  return start;
}

void leave_later_course(const Config& config, int64_t step, Group& world) {
  if (world.rank() == 0) set_aside_newer(config.run.out, step, log);
  world.barrier("later checkpoints set aside").wait();
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
    throw ConfigError(fmt::format("{}: holds another model: {}; make the config say the same, or don't start from it "
                                  "(checkpoint.resume: never, no checkpoint.init_from)",
                                  reader.folder().string(), differences));
}

}  // namespace trireme
