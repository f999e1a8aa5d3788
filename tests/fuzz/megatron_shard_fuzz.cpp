// Any bytes as a Megatron-LM data set: either a ConfigError, or every token can be read. The first two bytes
// tell how many of the rest are the index; what remains is the .bin.
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/data/megatron_shard.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const auto rest = std::as_bytes(std::span(data, size)).subspan(2);
  const size_t index_bytes = std::min<size_t>(data[0] + 256u * data[1], rest.size());
  try {
    const auto shard = trireme::parse_megatron_shard("fuzz.idx", rest.first(index_bytes), "fuzz.bin",
                                                     rest.subspan(index_bytes));
    std::vector<int32_t> tokens(4096);  // sequences may overlap, so there may be many more tokens than bytes
    for (int64_t begin = 0; begin < shard.num_tokens(); begin += static_cast<int64_t>(tokens.size())) {
      const auto left = static_cast<size_t>(shard.num_tokens() - begin);
      shard.read(begin, std::span(tokens).first(std::min(left, tokens.size())));
    }
  } catch (const trireme::ConfigError&) {
  }
  return 0;
}
