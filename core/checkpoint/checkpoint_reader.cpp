#include "core/checkpoint/checkpoint_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/checkpoint/checksum.h"
#include "core/checkpoint/convert.h"
#include "core/error.h"
#include "core/text.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

std::string did_you_mean(const std::string& name, std::span<const std::string> known) {
  const std::string near = nearest_name(name, known);
  return near.empty() ? "" : fmt::format(" (did you mean {}?)", near);
}

Manifest read_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifestName;
  if (!fs::exists(path))
    throw ConfigError(fmt::format("{} is not a checkpoint: it has no {}", folder.string(), kManifestName));
  return parse_manifest(read_text(path), path.string());
}

/// Which elements of a slice are there: sorted, disjoint intervals.
class Coverage {
 public:
  void add(int64_t begin, int64_t end) {
    if (!intervals_.empty() && intervals_.back().second == begin)
      intervals_.back().second = end;
    else
      intervals_.emplace_back(begin, end);
  }
  /// The first of `count` elements that is missing; `count` when none is.
  int64_t first_missing(int64_t count) {
    std::ranges::sort(intervals_);
    int64_t covered = 0;
    for (const auto& [begin, end] : intervals_) {
      if (begin > covered) break;
      covered = std::max(covered, end);
    }
    return std::min(covered, count);
  }

 private:
  std::vector<std::pair<int64_t, int64_t>> intervals_;
};

}  // namespace

CheckpointReader::CheckpointReader(fs::path folder)
    : folder_(std::move(folder)),
      manifest_(read_manifest(folder_)),
      verified_(manifest_.entries.size(), false) {
  for (size_t i = 0; i < manifest_.entries.size(); ++i) {
    const auto [found, added] = index_.try_emplace(manifest_.entries[i].name);
    if (added) names_.push_back(found->first);
    found->second.push_back(i);
  }
}

const std::vector<size_t>& CheckpointReader::entries(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end())
    throw ConfigError(fmt::format("checkpoint {} has no tensor '{}'{}", folder_.string(), name,
                                  did_you_mean(name, names_)));
  return found->second;
}

/// The file, its size and header compared with the manifest when it is opened.
const SafetensorsFile& CheckpointReader::open(const std::string& file) {
  if (const auto found = files_.find(file); found != files_.end()) return found->second;
  const fs::path path = folder_ / file;
  const auto listed = std::ranges::find(manifest_.files, file, &ManifestFile::name);
  TRIREME_ASSERT(listed != manifest_.files.end(), file + " is not in the manifest");
  std::error_code error;
  const uint64_t bytes = fs::file_size(path, error);
  if (error) throw ConfigError(fmt::format("{}: {}", path.string(), error.message()));
  if (bytes != listed->bytes)
    throw ConfigError(fmt::format("{} has {} bytes, the manifest tells of {}: it is truncated or was changed",
                                  path.string(), bytes, listed->bytes));
  const auto opened = files_.emplace(file, SafetensorsFile(path)).first;
  if (xxh3(opened->second->header()) != listed->header_checksum) {
    files_.erase(opened);
    throw ConfigError(
        fmt::format("{}: its header does not fit its checksum; the file is damaged", path.string()));
  }
  return opened->second;
}

std::span<const std::byte> CheckpointReader::verified_bytes(size_t index) {
  const ManifestEntry& entry = manifest_.entries[index];
  const SafetensorsEntry* tensor = open(entry.file)->find(entry.key);
  const std::string where = (folder_ / entry.file).string();
  if (!tensor)
    throw ConfigError(fmt::format("{} has no tensor '{}', of which the manifest tells", where, entry.key));
  if (tensor->dtype != entry.dtype || tensor->shape.numel() != entry.slice.numel())
    throw ConfigError(fmt::format("{}: '{}' is {} {}, the manifest tells of {} {}", where, entry.key,
                                  name_of(tensor->dtype), to_string(tensor->shape), name_of(entry.dtype),
                                  to_string(entry.slice)));
  if (!verified_[index]) {
    if (xxh3(tensor->bytes) != entry.checksum)
      throw ConfigError(
          fmt::format("{}: '{}' does not fit its checksum; the file is damaged", where, entry.key));
    verified_[index] = true;
  }
  return tensor->bytes;
}

void CheckpointReader::read(const std::string& name, const Slice& wanted, DType dtype,
                            std::span<std::byte> out) {
  const std::vector<size_t>& sources = entries(name);
  const ManifestEntry& kind = manifest_.entries[sources.front()];
  if (wanted.global != kind.slice.global)
    throw ConfigError(fmt::format("checkpoint {}: '{}' has the shape {}, the model wants {}",
                                  folder_.string(), name, to_string(kind.slice.global),
                                  to_string(wanted.global)));
  if (!convertible(kind.dtype, dtype))
    throw ConfigError(fmt::format("checkpoint {}: '{}' is {}, which cannot be read as {}", folder_.string(),
                                  name, name_of(kind.dtype), name_of(dtype)));
  TRIREME_ASSERT(out.size() == static_cast<size_t>(wanted.numel()) * size_of(dtype), name + ": sizes differ");

  const size_t from_bytes = size_of(kind.dtype), to_bytes = size_of(dtype);
  Coverage coverage;
  for (size_t index : sources) {
    std::span<const std::byte> bytes;
    for_each_common_run(manifest_.entries[index].slice, wanted,
                        [&](int64_t source, int64_t target, int64_t count) {
                          if (bytes.empty())
                            bytes = verified_bytes(index);  // only slices that are needed are opened
                          convert_elements(kind.dtype, bytes.subspan(source * from_bytes, count * from_bytes),
                                           dtype, out.subspan(target * to_bytes, count * to_bytes));
                          coverage.add(target, target + count);
                        });
  }
  if (const int64_t missing = coverage.first_missing(wanted.numel()); missing < wanted.numel())
    throw ConfigError(
        fmt::format("checkpoint {}: no file holds element {} of '{}' ({}); a rank's part is missing",
                    folder_.string(), missing, name, to_string(wanted)));
}

nlohmann::json CheckpointReader::section(const std::string& name) const {
  const auto found = manifest_.sections.find(name);
  if (found != manifest_.sections.end()) return nlohmann::json::parse(found->second);
  std::vector<std::string> known;
  for (const auto& [section, text] : manifest_.sections) known.push_back(section);
  throw ConfigError(fmt::format("checkpoint {} has no section '{}'{}; it has: {}", folder_.string(), name,
                                did_you_mean(name, known), fmt::join(known, ", ")));
}

void CheckpointReader::verify(int part, int parts) {
  TRIREME_ASSERT(0 <= part && part < parts, "verify: there is no such part");
  const auto n = static_cast<uint64_t>(parts);
  const auto share_of = [&](uint64_t position, uint64_t total) {
    return static_cast<int>(std::min(position * n / std::max<uint64_t>(total, 1), n - 1));
  };
  for (size_t i = 0; i < manifest_.files.size(); ++i)
    if (share_of(i, manifest_.files.size()) == part) open(manifest_.files[i].name);
  const auto bytes_of = [](const ManifestEntry& e) { return static_cast<uint64_t>(e.slice.numel()) * size_of(e.dtype); };
  uint64_t total = 0, position = 0;
  for (const ManifestEntry& entry : manifest_.entries) total += bytes_of(entry);
  for (size_t i = 0; i < manifest_.entries.size(); ++i) {
    if (share_of(position, total) == part) verified_bytes(i);
    position += bytes_of(manifest_.entries[i]);
  }
}

}  // namespace trireme
