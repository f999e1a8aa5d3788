// The collectives of a group, each on its own, in several sizes.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>

#include "comm/host_tensor.h"
#include "comm/staged_group.h"
#include "launcher/bench.h"
#include "launcher/progress.h"

namespace trireme {
namespace {

using Works = std::vector<Work>;
using Call = std::function<void(Works&)>;

class CollectiveBench {
 public:
  CollectiveBench(Context& ctx, Group& group, const BenchScope& scope) : ctx_(ctx), group_(group), scope_(scope) {}

  /// All of them, on f32 tensors of about this size.
  void run(size_t wanted_bytes) {
    const int64_t ranks = group_.size();
    const int64_t part = std::max<int64_t>(1, static_cast<int64_t>(wanted_bytes / sizeof(float)) / ranks);
    const Tensor whole = zeros(part * ranks), other = zeros(part * ranks), own = zeros(part);
    const int next = static_cast<int>((group_.rank() + 1) % ranks),
              previous = static_cast<int>((group_.rank() + ranks - 1) % ranks);
    const double share = static_cast<double>(ranks - 1) / static_cast<double>(ranks);
    Stream* after = ctx_.stream;
    ctx_.stream->synchronize();
    const auto add = [&](const char* name, double bus_factor, const Call& call) {
      if (!scope_.includes(name)) return;
      results_.push_back({name, fmt::format("{} ranks, {}", ranks, format_bytes(whole.bytes())), measure(whole.bytes(), call),
                          0, static_cast<double>(whole.bytes()), bus_factor});
    };
    add("all_reduce", 2 * share,
        [&](Works& works) { works.push_back(group_.all_reduce(whole, ReduceOp::sum, "bench", after)); });
    add("reduce_scatter", share,
        [&](Works& works) { works.push_back(group_.reduce_scatter(whole, own, ReduceOp::sum, "bench", after)); });
    add("all_gather", share, [&](Works& works) { works.push_back(group_.all_gather(own, whole, "bench", after)); });
    add("broadcast", 1, [&](Works& works) { works.push_back(group_.broadcast(whole, 0, "bench", after)); });
    add("all_to_all", share, [&](Works& works) { works.push_back(group_.all_to_all(whole, other, "bench", after)); });
    add("send to the next", 1, [&](Works& works) {
      works.push_back(group_.send(whole, next, 0, "bench", after));
      works.push_back(group_.recv(other, previous, 0, "bench", after));
    });
  }

  void barrier() {
    if (!scope_.includes("barrier")) return;
    const double seconds = measure(0, [&](Works& works) { works.push_back(group_.barrier("bench")); });
    results_.push_back({"barrier", fmt::format("{} ranks", group_.size()), seconds, 0, 0});
  }

  std::vector<BenchResult> take_results() { return std::move(results_); }

 private:
  Tensor zeros(int64_t n) { return ctx_.zeros({n}, DType::f32, MemoryClass::workspace); }

  /// Seconds of a call. How often it runs is the same on all ranks, which must make the same calls.
  double measure(size_t bytes, const Call& call) {
    const double first = run_together(call, 1);  // connects, and finds memory
    if (ctx_.backend->is_asynchronous()) return measure_in_a_row(std::min(first, run_together(call, 1)), call);
    const int runs = scope_.quick ? 3 : static_cast<int>(std::clamp<int64_t>((int64_t{256} << 20) / std::max<int64_t>(1, bytes), 10, 200));
    double fastest = std::numeric_limits<double>::infinity();
    for (int run = 0; run < runs; ++run) fastest = std::min(fastest, run_together(call, 1));
    return fastest;
  }

  /// Of a device: several calls are queued before the first one is waited for, so that the host's time does not count where
  /// the device needs longer.
  double measure_in_a_row(double estimate_s, const Call& call) {
    std::array<double, 1> slowest{estimate_s};
    group_.all_reduce(wrap_host(std::span<double>(slowest)), ReduceOp::max, "bench").wait();
    const int calls = static_cast<int>(std::clamp((scope_.quick ? 0.01 : 0.1) / slowest[0], 1.0, 100.0));
    double fastest = std::numeric_limits<double>::infinity();
    for (int run = 0; run < 3; ++run) fastest = std::min(fastest, run_together(call, calls) / calls);
    return fastest;
  }

  /// Seconds of `calls` calls that all ranks begin together.
  double run_together(const Call& call, int calls) {
    using Clock = std::chrono::steady_clock;
    Works works;
    group_.barrier("bench").wait();
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < calls; ++i) call(works);
    for (const Work& work : works) work.wait();
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  Context& ctx_;
  Group& group_;
  const BenchScope& scope_;
  std::vector<BenchResult> results_;
};

}  // namespace

std::vector<BenchResult> bench_collectives(Context& ctx, Group& group, const BenchScope& scope) {
  constexpr size_t kKiB = 1 << 10, kMiB = 1 << 20;
  std::vector<size_t> sizes{4 * kKiB, 64 * kKiB, kMiB, 25 * kMiB};
  const bool staged = dynamic_cast<const comm::StagedGroup*>(&group) != nullptr;  // slow: large ones tell nothing more
  if (ctx.backend->is_asynchronous() && !staged) sizes = {4 * kKiB, 64 * kKiB, kMiB, 16 * kMiB, 128 * kMiB, 1024 * kMiB};
  if (scope.quick) sizes = {64 * kKiB};
  CollectiveBench bench(ctx, group, scope);
  for (const size_t bytes : sizes) bench.run(bytes);
  bench.barrier();
  return bench.take_results();
}

}  // namespace trireme
