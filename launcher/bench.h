// Measurements of this machine: how long kernels and collectives take, and what that is in GFLOP/s and GB/s.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/group.h"
#include "core/context.h"

namespace trireme {

struct BenchResult {
  std::string name;      // "linear forward"
  std::string size;      // "1024 x 768 -> 2304"
  double seconds = 0.0;  // the fastest of several runs
  double flop = 0.0;     // of one run; 0: not what it is about
  double bytes = 0.0;    // read and written by one run (kernels), or of the tensor (collectives); 0: likewise
  double bus_factor = 0.0;  // collectives: how many times `bytes` cross the slowest link, if all links share the work

  double gflop_per_s() const { return flop / seconds * 1e-9; }
  double gb_per_s() const { return bytes / seconds * 1e-9; }
  double bus_gb_per_s() const { return gb_per_s() * bus_factor; }
};

/// What is measured, and how thoroughly.
struct BenchScope {
  bool quick = false;  // small sizes, briefly
  std::string only{};  // what has this in its name; empty: everything
  bool includes(std::string_view name) const { return name.find(only) != std::string_view::npos; }
};

/// The fastest run of `body`, after one to warm up, of as many as fit into `budget_s` (at least three). On a device that
/// works on its own many are queued at a time, and the time is the mean of the fastest queue.
double fastest_seconds(Context& ctx, double budget_s, const std::function<void()>& body);

/// Every kernel of a GPT, in the shapes of a small and a larger one that suit the device.
std::vector<BenchResult> bench_kernels(Context& ctx, DType dtype, const BenchScope& scope);

/// Every collective in several sizes, of tensors of the context's device, which `group` must take. All ranks of the group
/// call it; the times are this rank's. Rates are those of nccl-tests: bytes of the whole tensor over the time, and
/// `bus_factor` times that, which does not depend on the number of ranks.
/// https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
std::vector<BenchResult> bench_collectives(Context& ctx, Group& group, const BenchScope& scope);

/// Aligned columns with a heading; products in TFLOP/s when one reaches ten, and a column of bus rates where there are any.
std::string to_table(std::span<const BenchResult> results);

}  // namespace trireme
