// CheckpointReader: any slice of any tensor of a checkpoint, whatever slices its writers held.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/checkpoint/manifest.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/slice.h"

namespace trireme {

/// For one thread. Errors are ConfigErrors that name the file or tensor.
class CheckpointReader {
 public:
  /// Reads the manifest of a checkpoint folder; the files are opened when first needed.
  explicit CheckpointReader(std::filesystem::path folder);

  int64_t step() const { return manifest_.step; }
  const Manifest& manifest() const { return manifest_; }
  const std::filesystem::path& folder() const { return folder_; }

  const std::vector<std::string>& names() const { return names_; }  // of the tensors, as written
  bool has(const std::string& name) const { return index_.contains(name); }
  const Shape& shape(const std::string& name) const { return first(name).slice.global; }
  DType dtype(const std::string& name) const { return first(name).dtype; }

  /// Fills `out` with the elements of `wanted`, converted to `dtype` (between floating-point types). The
  /// checksum of each slice that is touched is compared, once.
  void read(const std::string& name, const Slice& wanted, DType dtype, std::span<std::byte> out);
  template <class T>
  void read(const std::string& name, const Slice& wanted, std::span<T> out) {
    read(name, wanted, DTypeOf<T>::value, std::as_writable_bytes(out));
  }

  bool has_section(const std::string& name) const { return manifest_.sections.contains(name); }
  nlohmann::json section(const std::string& name) const;

  /// Reads every byte and compares every checksum. Of several `parts`, about equal in bytes, one: so that many readers
  /// share the work.
  void verify(int part = 0, int parts = 1);

 private:
  const std::vector<size_t>& entries(const std::string& name) const;
  const ManifestEntry& first(const std::string& name) const {
    return manifest_.entries[entries(name).front()];
  }
  const SafetensorsFile& open(const std::string& file);
  std::span<const std::byte> verified_bytes(size_t entry);

  std::filesystem::path folder_;
  Manifest manifest_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, std::vector<size_t>> index_;  // name -> its entries
  std::map<std::string, SafetensorsFile> files_;                // opened so far
  std::vector<bool> verified_;                                  // by entry
};

}  // namespace trireme
