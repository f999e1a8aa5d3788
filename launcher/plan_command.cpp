// `trireme plan`: what an experiment file comes to on a number of ranks, without starting any: who does what,
// how much memory it takes, and the pipeline's schedule as a drawing.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <array>
#include <memory>

#include "core/files.h"
#include "launcher/commands.h"
#include "launcher/memory_check.h"
#include "launcher/option_check.h"
#include "launcher/run_plan.h"
#include "launcher/same_run.h"
#include "parallel/schedule/draw.h"
#include "parallel/schedule/read_trace.h"
#include "parallel/schedule/simulate.h"
#include "parallel/schedule/stages.h"

namespace trireme {
namespace {

struct PlanOptions {
  std::string config;
  std::vector<std::string> overrides;
  int64_t ranks = 1;
  bool schedule = false;
  std::string svg;
  std::string run;  // a run's folder, whose traces are drawn too
  double memory_gib = 0.0;  // of each rank; 0: not known
};

/// Times in forward passes of an average stage; the halves of backward take as long as forward.
PassTimes pass_times(const RunPlan& plan) {
  std::vector<double> costs =
      stage_costs(model_unit_costs(plan.config.model, plan.batch.sequence), plan.layout.first_unit);
  double mean = 0.0;
  for (const double cost : costs) mean += cost / static_cast<double>(costs.size());
  for (double& cost : costs) cost /= mean;
  return {costs, costs, costs};
}

/// What must be alike for a comparison to say something.
std::string text_of_layout(const RunPlan& plan) {
  Config config;
  config.model = plan.config.model;
  config.batch = plan.config.batch;
  config.parallel = plan.config.parallel;
  return to_yaml(config);
}

/// ConfigError unless the run in that folder, where it left its experiment, had this layout, and its ranks ran these passes.
void check_same_layout(const RunPlan& plan, const std::string& run, const Timeline& measured) {
  constexpr std::string_view kWayOut = "give the experiment file, -n and --set that the run had";
  const std::filesystem::path config = std::filesystem::path(run) / "config.yaml";
  if (std::filesystem::exists(config)) {
    const RunPlan ran = plan_run(load_config(config.string(), {}), plan.layout.mesh.ranks(), /*needs_data=*/false);
    if (const auto found = first_difference(text_of_layout(ran), text_of_layout(plan)))
      throw ConfigError(fmt::format("--run {}: the run had `{}` where this layout has `{}`; {}", run, found->first, found->second, kWayOut));
  }
  std::vector<std::vector<Action>> passes(plan.layout.schedule.ranks.size());
  for (const TimedAction& a : measured.actions) passes[static_cast<size_t>(a.rank)].push_back(a.action);
  if (passes != plan.layout.schedule.ranks)
    throw ConfigError(fmt::format("--run {}: its traces have other passes than this layout, or in another order; {}", run, kWayOut));
}

/// What the traces of a run measured in the last recorded step, and what its schedule allows with the times
/// of its passes.
void add_measured(std::vector<Panel>& panels, const RunPlan& plan, const std::string& run) {
  const MeshShape& mesh = plan.layout.mesh;
  std::vector<std::filesystem::path> files;
  for (int64_t rank = 0; rank < mesh.size(Axis::pipeline); ++rank) {
    std::array<int64_t, kNumAxes> coords{};
    coords[static_cast<size_t>(Axis::pipeline)] = rank;
    files.push_back(std::filesystem::path(run) / fmt::format("trace-{:05}.json", mesh.rank_of(coords)));
  }
  const Timeline measured = read_trace(files, -1);
  check_same_layout(plan, run, measured);
  const Timeline possible =
      simulate(plan.layout.schedule, median_times(measured, static_cast<int>(plan.layout.num_stages())));
  fmt::print(
      "\nmeasured: idle {:.1f}% of {:.1f} ms; with passes of these times the schedule would have {:.1f}% of "
      "{:.1f} ms\n",
      100 * measured.bubble_share, measured.makespan, 100 * possible.bubble_share, possible.makespan);
  panels.push_back(
      {fmt::format("{}, with the times of the run's passes", plan.layout.schedule.name), possible, "ms"});
  panels.push_back({"measured in " + run, measured, "ms"});
}

void print_schedule(const RunPlan& plan, const PlanOptions& options) {
  const Schedule& schedule = plan.layout.schedule;
  const Timeline simulated = simulate(schedule, pass_times(plan));
  fmt::print(
      "\nschedule {}: idle {:.1f}% of the time; activations of at most {:g} micro-batches on a rank\n\n{}",
      schedule.name, 100 * simulated.bubble_share, simulated.peak_micro_batches(), draw_text(simulated));
  std::vector<Panel> panels{{fmt::format("{}, planned", schedule.name), simulated, "forward passes"}};
  if (!options.run.empty()) add_measured(panels, plan, options.run);
  if (options.svg.empty()) return;
  write_text_durably(options.svg, draw_svg(panels));
  fmt::print("\nwrote {}\n", options.svg);
}

void plan(const PlanOptions& options) {
  const RunPlan run =
      plan_run(load_config(options.config, options.overrides), options.ranks, /*needs_data=*/false);
  const Config& c = run.config;
  const MeshShape& mesh = run.layout.mesh;
  fmt::print("{} rank{}{}; a step is {} samples of {} tokens: {} micro-batch{} of {} on each\n\n{}",
             options.ranks, options.ranks == 1 ? "" : "s", options.ranks == 1 ? "" : ": " + mesh.describe(), c.batch.global,
             c.batch.sequence, run.batch.micro_batches, run.batch.micro_batches == 1 ? "" : "es",
             c.batch.micro, layout_table(run));
  if (options.memory_gib > 0) check_memory(run, options.memory_gib * 0x1p30, /*tries=*/false);
  if (options.schedule || !options.svg.empty() || !options.run.empty()) print_schedule(run, options);
}

}  // namespace

void add_plan_command(CLI::App& app) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* command =
      app.add_subcommand("plan", "Shows what each rank of a run would do, without starting it");
  command->add_option("CONFIG", options->config, "The experiment file")->required();
  command->add_option("-n,--ranks", options->ranks, "How many ranks")
      ->check(at_least_option(1))
      ->capture_default_str();
  command->add_option("--set", options->overrides, "Replaces a value of the file, as in `trireme train`")
      ->take_all()
      ->allow_extra_args(false);
  command->add_flag("--schedule", options->schedule, "Draws the pipeline's schedule as text");
  command->add_option("--svg", options->svg, "Draws it into this SVG file");
  command->add_option(
      "--run", options->run,
      "A run's folder: compares with what its traces measured (run.trace: true), and draws that too");
  command->add_option("--memory", options->memory_gib, "GiB that each rank has: a layout that needs more is refused, with what would fit")
      ->check(above_zero_option());
  command->footer(
      "Memory is an estimate of what parameters, gradients, optimizer and activations take.\n"
      "Example:\n  trireme plan configs/gpt2-1558m-8gpu.yaml -n 8 --set parallel.pipeline=4 --set "
      "parallel.schedule=zb-h1 --schedule --svg plan.svg");
  command->callback([options] { plan(*options); });
}

}  // namespace trireme
