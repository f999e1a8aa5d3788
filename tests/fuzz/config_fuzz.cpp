// Fuzzes the reader of experiment files: any bytes give a config or a ConfigError; a config that was accepted
// is written to text that reads back equal.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "launcher/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::string written;
  try {
    written = to_yaml(parse_config(text, "fuzz.yaml"));
  } catch (const ConfigError&) {
    return 0;
  }
  if (to_yaml(parse_config(written, "written.yaml")) != written) std::abort();
  return 0;
}
