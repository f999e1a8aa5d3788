// The measurements: every kernel and collective is there with a time, and the peak is cached.
#include "launcher/bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "comm/local/local_world.h"
#include "launcher/peak.h"
#include "optim/kernels.h"
#include "tests/temporary_folder.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

std::set<std::string> names_of(const std::vector<BenchResult>& results) {
  std::set<std::string> names;
  for (const BenchResult& r : results) names.insert(r.name);
  return names;
}

TEST(Bench, MeasuresEveryKernel) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Engine engine(make_cpu_backend(1));
    register_optimizer_kernels(engine.backend());
    Context ctx = engine.context();
    const auto results = bench_kernels(ctx, dtype, {.quick = true});
    EXPECT_THAT(
        names_of(results),
        IsSupersetOf({"linear forward", "linear dx", "linear dw, db",
                      "linear + gelu forward", "linear dx + gelu backward, db", "attention forward", "attention backward",
                      "add + layer_norm forward", "add + layer_norm backward", "gelu forward",
                      "gelu backward", "classifier, with gradients", "adamw", "copy"}));
    for (const BenchResult& r : results) {
      EXPECT_GT(r.seconds, 0) << r.name;
      EXPECT_GT(r.flop + r.bytes, 0) << r.name;
      EXPECT_LT(r.gflop_per_s(), 1e5) << r.name << ": faster than any machine";
    }
  }
}

TEST(Bench, MeasuresEveryCollective) {
  Engine engine(make_cpu_backend(1));
  LocalWorld(3).run([&](Group& world) {
    Context ctx = engine.context();
    ASSERT_EQ(world.size(), 3);
    const auto results = bench_collectives(ctx, world, {.quick = true});
    EXPECT_EQ(names_of(results),
              (std::set<std::string>{"all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all",
                                     "send to the next", "barrier"}));
    for (const BenchResult& r : results) EXPECT_GT(r.seconds, 0) << r.name;
  });
}

TEST(Bench, MeasuresOnlyWhatIsAskedFor) {
  Engine engine(make_cpu_backend(1));
  register_optimizer_kernels(engine.backend());
  LocalWorld(2).run([&](Group& world) {
    Context ctx = engine.context();
    EXPECT_EQ(names_of(bench_kernels(ctx, DType::f32, {.quick = true, .only = "layer_norm"})),
              (std::set<std::string>{"add + layer_norm forward", "add + layer_norm backward"}));
    EXPECT_EQ(names_of(bench_collectives(ctx, world, {.quick = true, .only = "all_"})),
              (std::set<std::string>{"all_reduce", "all_gather", "all_to_all"}));
  });
}

TEST(Bench, TheTableHasTheRates) {
  const std::vector<BenchResult> results{{"product", "2 x 3", 1e-3, 2e6, 0}, {"copy", "1 MiB", 1e-3, 0, 5e6}};
  EXPECT_EQ(to_table(results),
            "what     size           time    GFLOP/s      GB/s\n"
            "product  2 x 3     1000.0 us        2.0         -\n"
            "copy     1 MiB     1000.0 us          -       5.0\n");
  const std::vector<BenchResult> fast{{"product", "2 x 3", 1e-3, 5e11, 0}};
  EXPECT_EQ(to_table(fast),
            "what     size           time    TFLOP/s      GB/s\n"
            "product  2 x 3     1000.0 us      500.0         -\n");
}

class Peak : public ::testing::Test {
 protected:
  double of(DType dtype, const std::filesystem::path& cache) {
    Context ctx = engine_.context();
    return peak_flops(ctx, dtype, name_of(dtype), cache);
  }
  nlohmann::json cached() const { return nlohmann::json::parse(std::ifstream(file_)); }

  TemporaryFolder folder_;
  std::filesystem::path file_ = folder_ / "cache/peak.json";
  Engine engine_{make_cpu_backend(1)};
};

TEST_F(Peak, IsKeptForEachTypeUntilAHigherOneIsMeasured) {
  const double first = of(DType::f32, file_);
  EXPECT_GT(first, 1e8);
  EXPECT_LT(first, 1e14);
  EXPECT_GE(of(DType::f32, file_), first);
  of(DType::bf16, file_);
  ASSERT_EQ(cached().size(), 2u);

  const std::string key = cached().items().begin().key();  // bf16's comes first
  nlohmann::json changed = cached();
  changed[key] = 1e15;
  std::ofstream(file_) << changed;
  EXPECT_EQ(of(DType::bf16, file_), 1e15) << key;
  changed[key] = 1.0;
  std::ofstream(file_) << changed;
  EXPECT_GT(of(DType::bf16, file_), 1e6) << key;
  EXPECT_GT(cached()[key], 1e6);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_ / "cache"), {}), 1)
      << "temporary files are left";
}

TEST_F(Peak, ACacheThatIsBrokenOrCannotBeWrittenIsNoError) {
  std::filesystem::create_directory(folder_ / "cache");
  std::ofstream(file_) << "{ not json";
  EXPECT_GT(of(DType::f32, file_), 1e8);
  EXPECT_EQ(cached().size(), 1u) << "the broken cache was not replaced";
  EXPECT_GT(of(DType::f32, "/proc/no/such/peak.json"), 1e8);
  EXPECT_GT(of(DType::f32, ""), 1e8);
}

}  // namespace
}  // namespace trireme
