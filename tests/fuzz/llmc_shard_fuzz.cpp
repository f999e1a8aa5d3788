// Any bytes as a shard of llm.c: either a ConfigError, or every token can be read.
#include <cstdint>
#include <span>
#include <vector>

#include "core/data/llmc_shard.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto shard = trireme::parse_llmc_shard("fuzz.bin", std::as_bytes(std::span(data, size)));
    std::vector<int32_t> tokens(static_cast<size_t>(shard.num_tokens()));
    shard.read(0, tokens);
  } catch (const trireme::ConfigError&) {
  }
  return 0;
}
