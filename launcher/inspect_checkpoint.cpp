// Inspection of checkpoints and safetensors files.
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/safetensors.h"
#include "core/error.h"
#include "launcher/inspect.h"
#include "launcher/tensor_statistics.h"

namespace trireme {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

json tensor_json(const std::string& name, const Shape& shape, DType dtype) {
  return {{"name", name},
          {"shape", std::vector<int64_t>(shape.begin(), shape.end())},
          {"dtype", name_of(dtype)},
          {"bytes", static_cast<uint64_t>(shape.numel()) * size_of(dtype)}};
}

void add_statistics(json& tensor, const TensorStatistics& s) {
  tensor["not_finite"] = s.not_finite;
  if (s.count == 0) return;
  tensor["min"] = s.min;
  tensor["max"] = s.max;
  tensor["mean"] = s.mean;
  tensor["std"] = s.std_deviation;
}

uint64_t total_bytes(const json& parts) {
  uint64_t bytes = 0;
  for (const json& part : parts) bytes += part["bytes"].get<uint64_t>();
  return bytes;
}

}  // namespace

json inspect_checkpoint(const fs::path& folder, const InspectOptions& options) {
  CheckpointReader reader(folder);
  if (options.verify) reader.verify();
  const Manifest& manifest = reader.manifest();
  json result{
      {"kind", "checkpoint"}, {"path", folder.string()}, {"step", reader.step()}, {"ranks", manifest.ranks}};
  for (const ManifestFile& file : manifest.files)
    result["files"].push_back({{"name", file.name}, {"bytes", file.bytes}});
  std::unordered_map<std::string, int64_t> slices;
  for (const ManifestEntry& entry : manifest.entries) ++slices[entry.name];
  result["tensors"] = json::array();
  for (const std::string& name : reader.names()) {
    const Slice whole = Slice::whole(reader.shape(name));
    const DType dtype = reader.dtype(name);
    json tensor = tensor_json(name, whole.global, dtype);
    tensor["slices"] = slices[name];
    if (options.values)
      add_statistics(tensor,
                     measure(dtype, whole.numel(), [&](int64_t begin, int64_t end, std::span<std::byte> out) {
                       reader.read(name, whole.range(begin, end), dtype, out);
                     }));
    result["tensors"].push_back(std::move(tensor));
  }
  result["bytes"] = total_bytes(result["tensors"]);
  for (const auto& [name, text] : manifest.sections) result["sections"][name] = json::parse(text);
  // Reading the values compares the checksums of all that is read.
  result["verified"] = options.verify || options.values;
  return result;
}

json inspect_checkpoints(const fs::path& folder, const InspectOptions& options) {
  json result{{"kind", "checkpoints"}, {"path", folder.string()}, {"checkpoints", json::array()}};
  for (const fs::path& path : find_checkpoints(folder)) {
    json row{{"path", path.string()}};
    try {
      CheckpointReader reader(path);
      row["step"] = reader.step();
      uint64_t bytes = 0;
      for (const ManifestFile& file : reader.manifest().files) bytes += file.bytes;
      row["bytes"] = bytes;
      if (options.verify) reader.verify();
      row["verified"] = options.verify;
    } catch (const Error& error) {  // one damaged checkpoint does not hide the others
      row["problem"] = error.what();
    }
    result["checkpoints"].push_back(std::move(row));
  }
  return result;
}

json inspect_safetensors(const fs::path& path, const InspectOptions& options) {
  const SafetensorsFile file(path);
  json result{{"kind", "safetensors"},
              {"path", path.string()},
              {"tensors", json::array()},
              {"metadata", file->metadata()}};
  for (const SafetensorsEntry& entry : file->entries()) {
    json tensor = tensor_json(entry.name, entry.shape, entry.dtype);
    if (options.values)
      add_statistics(
          tensor,
          measure(entry.dtype, entry.shape.numel(), [&](int64_t begin, int64_t, std::span<std::byte> out) {
            std::memcpy(out.data(), entry.bytes.data() + static_cast<size_t>(begin) * size_of(entry.dtype),
                        out.size());
          }));
    result["tensors"].push_back(std::move(tensor));
  }
  result["bytes"] = total_bytes(result["tensors"]);
  return result;
}

}  // namespace trireme
