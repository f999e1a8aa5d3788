// Halves of masters: together they are the f32, and one of them is what bf16 makes of it.
#include "optim/split_master.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "core/dtype.h"

namespace trireme {
namespace {

void check(uint32_t bits) {
  const float value = std::bit_cast<float>(bits);
  const uint32_t settled = settle_master(bits);
  const uint16_t data = round_master(settled), rest = rest_of_master(settled, data);
  const uint32_t joined = join_master(data, rest);
  if (std::isnan(value)) {
    ASSERT_TRUE(std::isnan(std::bit_cast<float>(joined))) << std::hex << bits;
    ASSERT_TRUE(std::isnan(static_cast<float>(std::bit_cast<bf16>(data)))) << std::hex << bits;
    return;
  }
  ASSERT_EQ(joined, settled) << std::hex << bits;
  ASSERT_EQ(data, bf16(value).bits) << std::hex << bits;
  ASSERT_EQ(settled, bits - ((bits & 0x1ffffu) == 0x8000u ? 1 : 0)) << std::hex << bits;
  ASSERT_EQ(settle_master(joined), joined) << std::hex << bits;
}

TEST(SplitMaster, HalvesAreTheWhole) {
  // All lower halves, beside the upper ones at which something may happen, and some others.
  std::vector<uint32_t> upper{0x0000, 0x0001, 0x007f, 0x0080, 0x3f7f, 0x3f80, 0x7f7e, 0x7f7f, 0x7f80, 0x7f81, 0x7fc0, 0x7fff};
  for (uint32_t i = 0; i < 40; ++i) upper.push_back(i * 811 % 0x7f80);
  for (const uint32_t sign : {0u, 0x8000u})
    for (const uint32_t high : upper)
      for (uint32_t low = 0; low < 0x10000; ++low) check((high | sign) << 16 | low);
}

}  // namespace
}  // namespace trireme
