// Schedules against the papers: bubbles and peak memory, for a grid of sizes.
#include "parallel/schedule/simulate.h"

#include <gtest/gtest.h>
#include <fmt/format.h>

#include "parallel/schedule/validate.h"

namespace trireme {
namespace {
TEST(Explore, Grid) {
  for (int p = 1; p <= 8; ++p)
    for (int m = 1; m <= 20; ++m) {
      std::string line = fmt::format("p {} m {}:", p, m);
      for (auto [name, v] : {std::pair{"gpipe", 1}, {"1f1b", 1}, {"interleaved", 2}, {"interleaved", 3}, {"zb-h1", 1}, {"zb-v", 2}}) {
        const Schedule s = make_schedule(name, p, v, m);
        validate(s);
        const double c = 1.0 / v;
        const Simulation r = simulate(s, PassTimes::uniform(s.num_stages(), c, c, c));
        line += fmt::format(" | {} {:.2f} {:.1f} {}", name, r.makespan - 3.0 * m, static_cast<double>(r.peak_activations()) / v, p);
      }
      puts(line.c_str());
    }
}
}  // namespace
}  // namespace trireme
