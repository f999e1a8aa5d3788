// The manifest of a checkpoint folder: which file holds which slice of which tensor, with checksums of
// everything, its own included; and the sections of text that describe the run. docs/checkpoints.md shows
// one.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/checkpoint/slice.h"
#include "core/dtype.h"

namespace trireme {

inline constexpr const char* kManifestName = "manifest.json";

struct ManifestEntry {
  std::string name;  // of the whole tensor
  DType dtype = DType::f32;
  Slice slice;
  std::string file;
  std::string key;        // the tensor's name in that file
  uint64_t checksum = 0;  // XXH3-64 of the slice's bytes
};

struct ManifestFile {
  std::string name;
  uint64_t bytes = 0;
  uint64_t header_checksum = 0;  // XXH3-64 of the safetensors header
};

struct Manifest {
  int64_t step = 0;
  int ranks = 1;  // that wrote it
  std::vector<ManifestFile> files;
  std::vector<ManifestEntry> entries;
  std::map<std::string, std::string> sections;  // name -> JSON text
};

std::string manifest_text(const Manifest& manifest);

/// ConfigError naming `source` when the text is not a whole and sound manifest. `check_seal` false skips only
/// the comparison with the manifest's own checksum, for tests of what comes after it.
Manifest parse_manifest(std::string_view text, const std::string& source, bool check_seal = true);

}  // namespace trireme
