// `trireme train`: one process, or one rank of mpirun or srun.
#include <CLI/CLI.hpp>
#include <exception>
#include <memory>
#include <optional>

#include "comm/world.h"
#include "launcher/agree.h"
#include "launcher/commands.h"
#include "launcher/trainer.h"

namespace trireme {
namespace {

struct TrainOptions {
  std::string config;
  std::vector<std::string> overrides;
};

void run(const TrainOptions& options) {
  SignalRequests signals;  // before all that takes time, so that a signal during it counts
  std::optional<Config> config;
  std::exception_ptr wrong;  // thrown once the ranks can agree on it
  GroupOptions group;
  try {
    config = load_config(options.config, options.overrides);
    group.timeout_ms = config->run.timeout_s * 1000;
  } catch (const ConfigError&) {
    wrong = std::current_exception();
  }
  const auto train = [&](Group& world) {
    agree(world, "experiment read", [&] {
      if (wrong) std::rethrow_exception(wrong);
    });
    Trainer(*config, world, &signals).run();
  };
  run_world(group, train, [&] { return signals.stop_requested(); });
}

}  // namespace

void add_train_command(CLI::App& app) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand("train", "Trains a model as an experiment file says");
  command->add_option("CONFIG", options->config, "The experiment file (YAML); docs/config.md lists its keys")->required();
  command->add_option("--set", options->overrides, "Replaces a value of the file, e.g. --set optim.lr=1e-4")
      ->take_all()
      ->allow_extra_args(false);
  command->footer(
      "Alone it is one process; started by mpirun or srun, one rank (`trireme launch` does that for this machine).\n"
      "Example:\n  trireme train configs/char.yaml --set run.steps=200 --set optim.lr=1e-3");
  command->callback([options] { run(*options); });
}

}  // namespace trireme
