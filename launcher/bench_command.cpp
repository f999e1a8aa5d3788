// trireme bench: what the kernels and collectives of this machine reach.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
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
  std::string device = "cpu";  // auto | cpu | cuda
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

/// The backend to measure kernels on; ranks of one machine have a GPU each.
std::unique_ptr<Backend> make_bench_backend(const Options& options, Group& world) {
  const int gpus = num_cuda_devices();
  if (options.device == "cuda" || (options.device == "auto" && gpus > 0))
    return make_cuda_backend({.index = world.rank() % std::max(gpus, 1), .tf32 = options.dtype == "tf32"});
  if (options.dtype == "tf32" || options.dtype == "f16")
    throw ConfigError(fmt::format("--dtype {}: the host has no kernels for it; use f32 or bf16, or --device cuda", options.dtype));
  return make_cpu_backend();
}

/// All ranks of mpirun measure, as they would all compute in training; rank 0 reports.
void run_rank(const Options& options, Group& world) {
  Engine device(make_bench_backend(options, world));
  register_optimizer_kernels(device.backend());
  Context device_ctx = device.context();
  const DType dtype = options.dtype == "tf32" ? DType::f32 : parse_dtype(options.dtype);
  const auto kernels = bench_kernels(device_ctx, dtype, options.quick);
  Engine host(make_cpu_backend());  // collectives are those of host memory
  Context ctx = host.context();
  const int threads = host.backend().num_threads();
  const bool local = world.size() == 1;
  const auto collectives =
      local ? bench_local_collectives(ctx, options.quick) : bench_collectives(ctx, world, options.quick);
  if (world.rank() != 0) return;
  const char* ranks = local ? "threads of this process" : "processes";
  if (options.json) {
    const Json machine{{"cpu", cpu_model()},
                       {"cores", detect_machine().cores},
                       {"threads", threads},
                       {"device", to_string(device.backend().device())},
                       {"dtype", options.dtype}};
    const Json all{{"machine", machine},
                   {"kernels", to_json(kernels)},
                   {"collectives_between", ranks},
                   {"collectives", to_json(collectives)}};
    fmt::print("{}\n", all.dump(2));
  } else {
    fmt::print("{}, {} threads; kernels on {} in {}\n\n{}\nBetween {} (GB/s: bytes of the whole tensor over the time)\n\n{}",
               cpu_model(), threads, to_string(device.backend().device()), options.dtype, to_table(kernels), ranks,
               to_table(collectives));
  }
}

}  // namespace

void add_bench_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("bench", "Measure the kernels and collectives of this machine.");
  command->add_flag("--json", options->json, "Print JSON instead of tables");
  command->add_flag("--quick", options->quick, "Small sizes, briefly: a second in all");
  command->add_option("--dtype", options->dtype, "Type of activations and weights")
      ->check(CLI::IsMember({"f32", "tf32", "bf16", "f16"}))
      ->capture_default_str();
  command->add_option("--device", options->device, "Where kernels are measured; auto: a GPU where there is one")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->footer(
      "Under mpirun every rank measures, and the collectives are those of its processes.\n"
      "Example:\n  trireme bench\n  trireme bench --device cuda --dtype bf16\n  mpirun -n 2 trireme bench --json > bench.json");
  command->callback([options] { run_world({}, [&](Group& world) { run_rank(*options, world); }); });
}

}  // namespace trireme
