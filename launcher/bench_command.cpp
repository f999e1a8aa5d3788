// trireme bench: what the kernels and collectives of this machine reach.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "comm/device_group.h"
#include "comm/local/local_world.h"
#include "comm/staged_group.h"
#include "comm/world.h"
#include "launcher/agree.h"
#include "launcher/bench.h"
#include "launcher/choose_device.h"
#include "launcher/commands.h"
#include "launcher/machine.h"
#include "optim/kernels.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kLocalRanks = 2;

struct Options {
  bool json = false;
  BenchScope scope;
  bool copy_engines = false;
  std::string dtype = "f32";
  std::string device = "cpu";  // auto | cpu | cuda
};

Json to_json(const std::vector<BenchResult>& results) {
  Json list = Json::array();
  for (const BenchResult& r : results) {
    Json entry{{"name", r.name}, {"size", r.size}, {"time_us", r.seconds * 1e6}};
    if (r.flop > 0) entry["gflop_per_s"] = r.gflop_per_s();
    if (r.bytes > 0) entry["gb_per_s"] = r.gb_per_s();
    if (r.bus_factor > 0) entry["bus_gb_per_s"] = r.bus_gb_per_s();
    list.push_back(std::move(entry));
  }
  return list;
}

std::unique_ptr<Backend> make_backend(const Options& options, Device device) {
  const bool on_gpu = device.kind == DeviceKind::cuda;
  if (!on_gpu && (options.dtype == "tf32" || options.dtype == "f16"))
    throw ConfigError(fmt::format("--dtype {}: the host has no kernels for it; use f32 or bf16, or --device cuda", options.dtype));
  auto backend = on_gpu ? make_cuda_backend({.index = device.index, .tf32 = options.dtype == "tf32"}) : make_cpu_backend();
  register_optimizer_kernels(*backend);
  return backend;
}

struct Collectives {
  std::vector<BenchResult> results;
  std::string between;
};

Collectives bench_ranks(Context& ctx, Group& world, std::string between, const Options& options) {
  const auto group = make_device_group(world, *ctx.backend, "bench",
                                       {.copy_engines = options.copy_engines ? std::make_shared<comm::CopyOrder>() : nullptr});
  if (ctx.backend->device().kind == DeviceKind::cuda)
    between += dynamic_cast<const comm::StagedGroup*>(group.get()) ? " with GPUs, through host memory"
               : options.copy_engines                               ? " with GPUs, by copy engines where they can and NCCL"
                                                                    : " with GPUs, by NCCL";
  return {bench_collectives(ctx, *group, options.scope), std::move(between)};
}

/// Collectives between threads of this process, each with a GPU where there are several; rank 0's times.
Collectives bench_threads(Context& ctx, const Options& options) {
  const bool on_gpus = ctx.backend->device().kind == DeviceKind::cuda;
  const int ranks = on_gpus ? std::max(kLocalRanks, num_cuda_devices()) : kLocalRanks;
  Collectives collectives;
  LocalWorld(ranks).run([&](Group& world) {
    std::optional<Engine> own;
    if (on_gpus) own.emplace(make_backend(options, choose_device("cuda", world)));
    Context rank_ctx = own ? own->context() : ctx;
    Collectives measured = bench_ranks(rank_ctx, world, "threads of this process", options);
    if (world.rank() == 0) collectives = std::move(measured);
  });
  return collectives;
}

/// All ranks of mpirun measure, as they would all compute in training; rank 0 reports.
void run_rank(const Options& options, Group& world) {
  const Device device_here = choose_device(options.device, world);
  Engine engine(agree(world, "bench", [&] { return make_backend(options, device_here); }));
  Context ctx = engine.context();
  const int threads = engine.backend().num_threads();
  const std::string device = to_string(engine.backend().device());
  const DType dtype = options.dtype == "tf32" ? DType::f32 : parse_dtype(options.dtype);
  const auto kernels = bench_kernels(ctx, dtype, options.scope);
  const Collectives collectives =
      world.size() == 1 ? bench_threads(ctx, options) : bench_ranks(ctx, world, "processes", options);
  agree(world, "bench", [&] {
    if (kernels.empty() && collectives.results.empty())
      throw ConfigError(fmt::format("--only {}: no kernel or collective has that in its name; without --only all are listed",
                                    options.scope.only));
  });
  if (world.rank() != 0) return;
  if (options.json) {
    const Json machine{{"cpu", cpu_model()},
                       {"cores", detect_machine().cores},
                       {"threads", threads},
                       {"device", device},
                       {"dtype", options.dtype}};
    const Json all{{"machine", machine},
                   {"kernels", to_json(kernels)},
                   {"collectives_between", collectives.between},
                   {"collectives", to_json(collectives.results)}};
    fmt::print("{}\n", all.dump(2));
  } else {
    fmt::print("{}, {} threads; kernels on {} in {}\n", cpu_model(), threads, device, options.dtype);
    if (!kernels.empty()) fmt::print("\n{}", to_table(kernels));
    if (!collectives.results.empty())
      fmt::print("\nBetween {} (GB/s: bytes of the whole tensor over the time)\n\n{}", collectives.between,
                 to_table(collectives.results));
  }
}

}  // namespace

void add_bench_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("bench", "Measures the kernels and collectives of this machine");
  command->add_flag("--json", options->json, "Prints JSON instead of tables");
  command->add_flag("--quick", options->scope.quick, "Small sizes, briefly: a second in all");
  command->add_flag("--copy-engines", options->copy_engines,
                    "Large sums and gathers of GPUs that NVLink joins go by copy engines, as gradients do");
  command->add_option("--only", options->scope.only, "What has this in its name, such as layer_norm or all_reduce");
  command->add_option("--dtype", options->dtype, "Type of activations and weights")
      ->check(CLI::IsMember({"f32", "tf32", "bf16", "f16"}))
      ->capture_default_str();
  command->add_option("--device", options->device, "Where to measure; auto: a GPU for each rank where there are so many")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->footer(
      "Under mpirun every rank measures, and the collectives are those of its processes.\n"
      "Example:\n  trireme bench\n  trireme bench --device cuda --dtype bf16\n  mpirun -n 2 trireme bench --json > bench.json");
  command->callback([options] { run_world({}, [&](Group& world) { run_rank(*options, world); }); });
}

}  // namespace trireme
