// trireme launch: starts the ranks of a run on this machine.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <memory>

#include "core/error.h"
#include "launcher/commands.h"
#include "launcher/config.h"
#include "launcher/launch_plan.h"
#include "launcher/machine.h"
#include "launcher/run_plan.h"
#include "launcher/supervise.h"

namespace trireme {
namespace {

struct Options {
  std::string config;
  int ranks = 0;
  std::vector<std::string> overrides;
  bool dry_run = false;
};

/// Threads of a rank as the user wants them: run.threads, else OMP_NUM_THREADS, else 0.
int wanted_threads(const Config& config) {
  if (config.run.threads > 0) return static_cast<int>(config.run.threads);
  const char* text = std::getenv("OMP_NUM_THREADS");
  return text ? std::max(0, std::atoi(text)) : 0;
}

void run(const Options& options) {
  const Config config = load_config(options.config, options.overrides);
  if (!options.dry_run) plan_run(config, options.ranks);  // says what can't work once, not once a rank
  LaunchRequest request{
      .ranks = options.ranks, .threads = wanted_threads(config), .train_arguments = {options.config}};
  for (const std::string& assignment : options.overrides) {
    request.train_arguments.push_back("--set");
    request.train_arguments.push_back(assignment);
  }
  const LaunchPlan plan = plan_launch(request, detect_machine());
  if (options.dry_run) {
    fmt::print("{}\n", to_shell_line(plan));
    return;
  }
  for (const std::string& note : plan.notes) fmt::print(stderr, "trireme launch: {}\n", note);
  if (const int status = run_supervised(plan); status != 0) throw CLI::RuntimeError(status);
}

}  // namespace

void add_launch_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("launch", "Trains a model on several ranks of this machine");
  command->add_option("CONFIG", options->config, "The experiment file (YAML)")->required();
  command->add_option("-n,--ranks", options->ranks, "How many ranks")->required()->check(CLI::Range(1, 4096));
  command->add_option("--set", options->overrides, "Replaces a value of the file, e.g. --set optim.lr=1e-4")
      ->allow_extra_args(false);
  command->add_flag("--dry-run", options->dry_run,
                    "Shows the line that would be started, and starts nothing");
  command->footer(
      "Example:\n  trireme launch configs/quickstart.yaml -n 2 --set run.steps=100\n"
      "Ctrl-C stops the run after its step with a checkpoint; a second one ends it at once.");
  command->callback([options] { run(*options); });
}

}  // namespace trireme
