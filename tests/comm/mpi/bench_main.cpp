// Times all-reduce and reduce-scatter of this machine: `mpirun -n 2 comm_bench`. One line a size.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "comm/mpi/mpi_world.h"
#include "tests/comm/test_tensor.h"

using namespace trireme;

namespace {

template <class F>
double best_us(Group& world, int repeats, const F& f) {
  double best = 1e30;
  for (int i = 0; i < repeats; ++i) {
    world.barrier("start").wait();
    const auto begin = std::chrono::steady_clock::now();
    f();
    const std::chrono::duration<double, std::micro> elapsed = std::chrono::steady_clock::now() - begin;
    best = std::min(best, elapsed.count());
  }
  return best;
}

}  // namespace

int main() {
  MpiWorld mpi;
  Group& world = mpi.world();
  for (const int64_t n : {int64_t{1}, int64_t{512}, int64_t{1024}, int64_t{1} << 14, int64_t{1} << 18,
                          int64_t{1} << 20, int64_t{1} << 24}) {
    const Tensor t = make_tensor<float>(n * world.size(), [](int64_t) { return 0; });
    const Tensor part = make_tensor<float>(n / world.size(), [](int64_t) { return 0; });
    const Tensor whole = t.slice(0, part.numel() * world.size());
    const int repeats = n > (1 << 20) ? 5 : 200;
    const double reduce_us =
        best_us(world, repeats, [&] { world.all_reduce(t.slice(0, n), ReduceOp::sum, "bench").wait(); });
    const double scatter_us =
        best_us(world, repeats, [&] { world.reduce_scatter(whole, part, ReduceOp::sum, "bench").wait(); });
    if (world.rank() == 0)
      std::printf("%9ld bytes: all_reduce %9.1f us, reduce_scatter %9.1f us\n", static_cast<long>(4 * n),
                  reduce_us, scatter_us);
  }
  mpi.finalize();
}
