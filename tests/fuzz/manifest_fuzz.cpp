// Fuzzes the reader of checkpoint manifests, without the seal that would refuse every change: any bytes give
// a manifest or a ConfigError; one that was accepted is written to sealed text that reads back equal.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/checkpoint/manifest.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::string written;
  try {
    written = manifest_text(parse_manifest(text, "fuzz.json", /*check_seal=*/false));
  } catch (const ConfigError&) {
    return 0;
  }
  if (manifest_text(parse_manifest(written, "written.json")) != written) std::abort();
  return 0;
}
