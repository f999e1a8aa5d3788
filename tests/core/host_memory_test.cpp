// Memory that the process may have: control groups' limits, its own and those around it.
#include "core/host_memory.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/temporary_folder.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

class HostMemory : public ::testing::Test {
 protected:
  void put(const std::string& file, const std::string& text) const {
    fs::create_directories((folder_ / file).parent_path());
    std::ofstream(folder_ / file) << text << '\n';
  }
  size_t bytes() const { return host_memory_bytes(folder_ / "own", folder_ / "groups"); }

  TemporaryFolder folder_;
};

TEST_F(HostMemory, IsAllOfItWithoutLimits) {
  const size_t all = host_memory_bytes("/no/such", "/no/such");
  EXPECT_GT(all, size_t{64} << 20);
  EXPECT_EQ(bytes(), all);
  put("own", "0::/job/step");
  EXPECT_EQ(bytes(), all) << "no such groups: a container's host has them";
  put("groups/job/step/memory.max", "max");
  put("groups/memory.max", "9223372036854771712");
  EXPECT_EQ(bytes(), all);
}

TEST_F(HostMemory, IsTheLeastLimitOfTheGroupsAround) {
  put("own", "0::/job/step");
  put("groups/job/step/memory.max", "max");
  put("groups/job/memory.max", "50000000");
  put("groups/memory.max", "60000000");
  EXPECT_EQ(bytes(), 50'000'000u);
  put("groups/memory.max", "40000000");
  EXPECT_EQ(bytes(), 40'000'000u);
  put("groups/job/step/memory.max", "30000000");
  EXPECT_EQ(bytes(), 30'000'000u);
}

TEST_F(HostMemory, KnowsVersionOneToo) {
  put("own", "12:cpu,cpuacct:/a\n7:memory:/slurm/job_7\n1:name=systemd:/b");
  put("groups/memory/slurm/job_7/memory.limit_in_bytes", "20000000");
  put("groups/memory.max", "1000");  // not its own
  EXPECT_EQ(bytes(), 20'000'000u);
}

}  // namespace
}  // namespace trireme
