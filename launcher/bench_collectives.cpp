// The collectives of a group, each on its own, in several sizes.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>

#include "launcher/bench.h"
#include "launcher/progress.h"

namespace trireme {
namespace {

/// The fastest of `runs` runs that all ranks begin together. The number is fixed: every rank must make the
/// same calls.
double fastest_together(Group& group, int runs, const std::function<Work()>& call) {
  using Clock = std::chrono::steady_clock;
  double fastest = std::numeric_limits<double>::infinity();
  for (int run = 0; run <= runs; ++run) {  // the first warms up
    group.barrier("bench").wait();
    const Clock::time_point begin = Clock::now();
    call().wait();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (run > 0) fastest = std::min(fastest, seconds);
  }
  return fastest;
}

}  // namespace

std::vector<BenchResult> bench_collectives(Context& ctx, Group& group, bool quick) {
  const int64_t ranks = group.size();
  std::vector<BenchResult> results;
  const auto add = [&](const char* name, size_t bytes, int runs, const std::function<Work()>& call) {
    results.push_back({name, fmt::format("{} ranks, {}", ranks, format_bytes(bytes)),
                       fastest_together(group, runs, call), 0, static_cast<double>(bytes)});
  };
  const std::vector<int64_t> sizes =
      quick ? std::vector<int64_t>{1 << 14} : std::vector<int64_t>{1 << 10, 1 << 14, 1 << 18, 25 << 18};
  for (const int64_t wanted : sizes) {
    const int64_t part = std::max<int64_t>(1, wanted / ranks), elements = part * ranks;  // f32
    const int runs = quick ? 3 : static_cast<int>(std::clamp<int64_t>((64 << 20) / elements, 10, 200));
    const Tensor whole = ctx.zeros({elements}, DType::f32, MemoryClass::workspace);
    const Tensor other = ctx.zeros({elements}, DType::f32, MemoryClass::workspace);
    const Tensor own = ctx.zeros({part}, DType::f32, MemoryClass::workspace);
    const size_t bytes = whole.bytes();
    const int next = static_cast<int>((group.rank() + 1) % ranks),
              previous = static_cast<int>((group.rank() + ranks - 1) % ranks);
    add("all_reduce", bytes, runs, [&] { return group.all_reduce(whole, ReduceOp::sum, "bench"); });
    add("reduce_scatter", bytes, runs,
        [&] { return group.reduce_scatter(whole, own, ReduceOp::sum, "bench"); });
    add("all_gather", bytes, runs, [&] { return group.all_gather(own, whole, "bench"); });
    add("broadcast", bytes, runs, [&] { return group.broadcast(whole, 0, "bench"); });
    add("all_to_all", bytes, runs, [&] { return group.all_to_all(whole, other, "bench"); });
    add("send to the next", bytes, runs, [&] {
      const Work sent = group.send(whole, next, 0, "bench");
      group.recv(other, previous, 0, "bench").wait();
      return sent;
    });
  }
  results.push_back({"barrier", fmt::format("{} ranks", ranks),
                     fastest_together(group, quick ? 3 : 200, [&] { return group.barrier("bench"); }), 0, 0});
  return results;
}

}  // namespace trireme
