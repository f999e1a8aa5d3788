// Fuzzes the reader of safetensors files: any bytes give a view or a ConfigError; every byte that an accepted
// view tells of can be read, and the tensors cover the data exactly.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "core/checkpoint/safetensors.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  try {
    const SafetensorsView view(std::as_bytes(std::span(data, size)), "fuzz.safetensors");
    size_t covered = view.header().size();
    unsigned sum = 0;
    for (const SafetensorsEntry& entry : view.entries()) {
      if (view.find(entry.name) == nullptr) std::abort();
      if (entry.bytes.size() != static_cast<size_t>(entry.shape.numel()) * size_of(entry.dtype)) std::abort();
      for (std::byte byte : entry.bytes) sum += static_cast<unsigned>(byte);
      covered += entry.bytes.size();
    }
    volatile unsigned kept = sum;  // so that the reads happen
    static_cast<void>(kept);
    if (covered != size) std::abort();
  } catch (const ConfigError&) {
  }
  return 0;
}
