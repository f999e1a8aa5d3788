#include "launcher/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::string rate(double amount, double per_s) {
  return amount > 0 ? fmt::format("{:.1f}", per_s) : "-";
}

}  // namespace

double fastest_seconds(Context& ctx, double budget_s, const std::function<void()>& body) {
  constexpr int kFewestRuns = 3;
  constexpr double kMostQueued = 200.0;
  body();
  ctx.stream->synchronize();
  double fastest = std::numeric_limits<double>::infinity();
  const Clock::time_point begin = Clock::now();
  for (int run = 0, repeats = 1; run < kFewestRuns || seconds_since(begin) < budget_s; ++run) {
    const Clock::time_point run_begin = Clock::now();
    for (int i = 0; i < repeats; ++i) body();
    ctx.stream->synchronize();
    const double seconds = seconds_since(run_begin) / repeats;
    // So many in a queue that waiting for the device does not count, nor the clock of one that has rested.
    if (run == 0 && ctx.backend->is_asynchronous())
      repeats = static_cast<int>(std::clamp(budget_s / kFewestRuns / seconds, 1.0, kMostQueued));
    else
      fastest = std::min(fastest, seconds);
  }
  return std::max(fastest, 1e-9);  // the clock's resolution
}

std::string to_table(std::span<const BenchResult> results) {
  size_t name_width = 4, size_width = 4;
  for (const BenchResult& r : results) {
    name_width = std::max(name_width, r.name.size());
    size_width = std::max(size_width, r.size.size());
  }
  const bool tera = std::ranges::any_of(results, [](const BenchResult& r) { return r.gflop_per_s() >= 1e4; });
  const bool bus = std::ranges::any_of(results, [](const BenchResult& r) { return r.bus_factor > 0; });
  std::string table = fmt::format("{:<{}}  {:<{}}  {:>12}  {:>9}  {:>8}{}\n", "what", name_width, "size", size_width, "time",
                                  tera ? "TFLOP/s" : "GFLOP/s", "GB/s", bus ? "  bus GB/s" : "");
  for (const BenchResult& r : results)
    table += fmt::format("{:<{}}  {:<{}}  {:>9.1f} us  {:>9}  {:>8}{}\n", r.name, name_width, r.size, size_width,
                         r.seconds * 1e6, rate(r.flop, r.gflop_per_s() / (tera ? 1e3 : 1.0)), rate(r.bytes, r.gb_per_s()),
                         bus ? fmt::format("  {:>8}", rate(r.bus_factor, r.bus_gb_per_s())) : "");
  return table;
}

}  // namespace trireme
