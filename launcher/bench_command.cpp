// trireme bench: what the kernels and collectives of this machine reach.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/local/local_world.h"
#include "comm/world.h"
#include "launcher/bench.h"
#include "launcher/commands.h"
#include "launcher/machine.h"
#include "optim/kernels.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kLocalRanks = 2;

struct Options {
  bool json = false;
  bool quick = false;
  std::string dtype = "f32";
};

Json to_json(const std::vector<BenchResult>& results) {
  Json list = Json::array();
  for (const BenchResult& r : results) {
    Json entry{{"name", r.name}, {"size", r.size}, {"time_us", r.seconds * 1e6}};
    if (r.flop > 0) entry["gflop_per_s"] = r.gflop_per_s();
    if (r.bytes > 0) entry["gb_per_s"] = r.gb_per_s();
    list.push_back(std::move(entry));
  }
  return list;
}

/// Collectives between two threads of this process; rank 0's times.
std::vector<BenchResult> bench_local_collectives(const Context& ctx, bool quick) {
  std::vector<BenchResult> results;
  LocalWorld(kLocalRanks).run([&](Group& world) {
    Context own = ctx;
    std::vector<BenchResult> measured = bench_collectives(own, world, quick);
    if (world.rank() == 0) results = std::move(measured);
  });
  return results;
}

/// All ranks of mpirun measure, as they would all compute in training; rank 0 reports.
void run_rank(const Options& options, Group& world) {
  Engine engine(make_cpu_backend());
  register_optimizer_kernels(engine.backend());
  Context ctx = engine.context();
  const int threads = engine.backend().num_threads();
  const auto kernels = bench_kernels(ctx, parse_dtype(options.dtype), options.quick);
  const bool local = world.size() == 1;
  const auto collectives =
      local ? bench_local_collectives(ctx, options.quick) : bench_collectives(ctx, world, options.quick);
  if (world.rank() != 0) return;
  const char* ranks = local ? "threads of this process" : "processes";
  if (options.json) {
    const Json machine{{"cpu", cpu_model()},
                       {"cores", detect_machine().cores},
                       {"threads", threads},
                       {"dtype", options.dtype}};
    const Json all{{"machine", machine},
                   {"kernels", to_json(kernels)},
                   {"collectives_between", ranks},
                   {"collectives", to_json(collectives)}};
    fmt::print("{}\n", all.dump(2));
  } else {
    fmt::print("{}, {} threads, {}\n\n{}\nBetween {} (GB/s: bytes of the whole tensor over the time)\n\n{}",
               cpu_model(), threads, options.dtype, to_table(kernels), ranks, to_table(collectives));
  }
}

}  // namespace

void add_bench_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("bench", "Measure the kernels and collectives of this machine.");
  command->add_flag("--json", options->json, "Print JSON instead of tables");
  command->add_flag("--quick", options->quick, "Small sizes, briefly: a second in all");
  command->add_option("--dtype", options->dtype, "Type of activations and weights")
      ->check(CLI::IsMember({"f32", "bf16"}));
  command->footer(
      "Under mpirun every rank measures, and the collectives are those of its processes.\n"
      "Example:\n  trireme bench\n  mpirun -n 2 trireme bench --json > bench.json");
  command->callback([options] { run_world({}, [&](Group& world) { run_rank(*options, world); }); });
}

}  // namespace trireme
