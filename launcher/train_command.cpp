// `trireme train`: one process, or one rank of mpirun or srun.
#include <CLI/CLI.hpp>
#include <memory>

#include "comm/world.h"
#include "launcher/commands.h"
#include "launcher/trainer.h"

namespace trireme {
namespace {

struct TrainOptions {
  std::string config;
  std::vector<std::string> overrides;
};

void train(const TrainOptions& options) {
  SignalRequests signals;  // before all that takes time, so that a signal during it counts
  const Config config = load_config(options.config, options.overrides);
  GroupOptions group;
  group.timeout_ms = config.run.timeout_s * 1000;
  run_world(
      group, [&](Group& world) { Trainer(config, world, &signals).run(); }, [&] { return signals.stop_requested(); });
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
  command->callback([options] { train(*options); });
}

}  // namespace trireme
