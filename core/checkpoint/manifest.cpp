#include "core/checkpoint/manifest.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "core/checkpoint/checksum.h"
#include "core/checkpoint/json_text.h"
#include "core/error.h"

namespace trireme {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "trireme-checkpoint";
constexpr int64_t kVersion = 1;
constexpr const char* kSeal = "checksum";  // of the manifest without this key, in its compact form

std::string seal_of(const json& manifest) {
  return checksum_text(xxh3(manifest.dump()));
}

json to_json(const Shape& shape) {
  return json(std::vector<int64_t>(shape.begin(), shape.end()));
}

json to_json(const ManifestEntry& entry) {
  json j{{"name", entry.name},
         {"dtype", name_of(entry.dtype)},
         {"shape", to_json(entry.slice.global)},
         {"file", entry.file},
         {"key", entry.key},
         {"xxh3", checksum_text(entry.checksum)}};
  if (entry.slice.size != entry.slice.global) {
    j["offset"] = to_json(entry.slice.offset);
    j["size"] = to_json(entry.slice.size);
  }
  if (!entry.slice.is_rectangle()) j["range"] = {entry.slice.flat_begin, entry.slice.flat_end};
  return j;
}

/// Reads the parts of a manifest; every message names where the text came from and what it is about.
class Parser {
 public:
  explicit Parser(const std::string& source) : source_(source) {}

  [[noreturn]] void fail(const std::string& what) const { throw ConfigError(source_ + ": " + what); }

  const json& at(const json& object, const char* key) const {
    if (!object.is_object() || !object.contains(key))
      fail(fmt::format("'{}' is missing in {}", key, about(object)));
    return object[key];
  }

  std::string text(const json& object, const char* key) const {
    const json& value = at(object, key);
    if (!value.is_string()) fail(fmt::format("'{}' is not a text in {}", key, about(object)));
    return value.get<std::string>();
  }

  int64_t number(const json& object, const char* key) const { return number(at(object, key), object, key); }

  uint64_t checksum(const json& object, const char* key) const {
    const std::string digits = text(object, key);
    if (digits.size() != 16 || digits.find_first_not_of("0123456789abcdef") != std::string::npos)
      fail(fmt::format("'{}' is not a checksum of 16 hexadecimal digits in {}", key, about(object)));
    return std::stoull(digits, nullptr, 16);
  }

  std::vector<int64_t> numbers(const json& object, const char* key) const {
    const json& value = at(object, key);
    if (!value.is_array() || value.size() > static_cast<size_t>(Shape::kMaxDims))
      fail(fmt::format("'{}' is not a list of at most {} sizes in {}", key, Shape::kMaxDims, about(object)));
    std::vector<int64_t> result;
    for (const json& element : value) result.push_back(number(element, object, key));
    return result;
  }

  /// A file beside the manifest, never elsewhere.
  std::string file_name(const json& object, const char* key) const {
    const std::string name = text(object, key);
    if (name.empty() || name[0] == '.' || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos)
      fail(fmt::format("'{}' is not the name of a file in this folder in {}", key, about(object)));
    return name;
  }

  ManifestEntry entry(const json& j) const {
    ManifestEntry e;
    e.name = text(j, "name");
    try {
      e.dtype = parse_dtype(text(j, "dtype"));
    } catch (const ConfigError& error) {
      fail(fmt::format("{} in {}", error.what(), about(j)));
    }
    e.slice.global = Shape(numbers(j, "shape"));
    const bool part = j.contains("offset") || j.contains("size");
    e.slice.size = part ? Shape(numbers(j, "size")) : e.slice.global;
    e.slice.offset = Shape(part ? numbers(j, "offset") : std::vector<int64_t>(e.slice.global.rank(), 0));
    if (j.contains("range")) {
      const std::vector<int64_t> range = numbers(j, "range");
      if (range.size() != 2) fail(fmt::format("'range' is not a begin and an end in {}", about(j)));
      e.slice.flat_begin = range[0];
      e.slice.flat_end = range[1];
    }
    // numel() multiplies: first the sizes are checked, with an empty range where none is given.
    if (const std::string problem = problem_of(e.slice); !problem.empty())
      fail(fmt::format("{} in {}", problem, about(j)));
    if (!j.contains("range")) e.slice.flat_end = e.slice.size.numel();
    e.file = file_name(j, "file");
    e.key = text(j, "key");
    e.checksum = checksum(j, "xxh3");
    return e;
  }

 private:
  int64_t number(const json& value, const json& object, const char* key) const {
    if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX))
      fail(fmt::format("'{}' is not a whole number in {}", key, about(object)));
    return value.get<int64_t>();
  }

  static std::string about(const json& object) {
    const bool named = object.is_object() && object.contains("name") && object["name"].is_string();
    return named ? "the entry of " + object["name"].get<std::string>() : std::string("the manifest");
  }

  const std::string& source_;
};

void check_seal(json& j, const Parser& parser) {
  const std::string seal = parser.text(j, kSeal);
  j.erase(kSeal);
  if (seal != seal_of(j)) parser.fail("its checksum does not fit its text: the file is damaged");
}

}  // namespace

std::string manifest_text(const Manifest& manifest) {
  json j{{"format", kFormat}, {"version", kVersion}, {"step", manifest.step}, {"ranks", manifest.ranks}};
  j["files"] = json::array();
  for (const ManifestFile& file : manifest.files)
    j["files"].push_back(
        {{"name", file.name}, {"bytes", file.bytes}, {"header_xxh3", checksum_text(file.header_checksum)}});
  j["tensors"] = json::array();
  for (const ManifestEntry& entry : manifest.entries) j["tensors"].push_back(to_json(entry));
  j["sections"] = json::object();
  for (const auto& [name, text] : manifest.sections) j["sections"][name] = json::parse(text);
  j[kSeal] = seal_of(j);
  return j.dump(1) + "\n";
}

Manifest parse_manifest(std::string_view text, const std::string& source, bool check) {
  const Parser parser(source);
  json j = parse_json(text, source);
  if (parser.text(j, "format") != kFormat) parser.fail("is not the manifest of a Trireme checkpoint");
  if (const int64_t version = parser.number(j, "version"); version != kVersion)
    parser.fail(fmt::format("is of version {}; this Trireme reads version {}", version, kVersion));
  if (check) check_seal(j, parser);

  Manifest manifest;
  manifest.step = parser.number(j, "step");
  manifest.ranks = static_cast<int>(parser.number(j, "ranks"));
  std::set<std::string> files;
  for (const json& file : parser.at(j, "files")) {
    const int64_t bytes = parser.number(file, "bytes");
    if (bytes < 0) parser.fail("'bytes' of a file is negative");
    manifest.files.push_back(
        {parser.file_name(file, "name"), static_cast<uint64_t>(bytes), parser.checksum(file, "header_xxh3")});
    files.insert(manifest.files.back().name);
  }
  std::map<std::string, std::pair<Shape, DType>> kinds;  // all slices of a tensor must agree
  for (const json& entry : parser.at(j, "tensors")) {
    const ManifestEntry& e = manifest.entries.emplace_back(parser.entry(entry));
    if (!files.contains(e.file))
      parser.fail(fmt::format("{} lies in {}, which is not among the files", e.name, e.file));
    const auto [kind, added] = kinds.try_emplace(e.name, e.slice.global, e.dtype);
    if (kind->second != std::pair(e.slice.global, e.dtype))
      parser.fail(fmt::format("the slices of {} differ in shape or type", e.name));
  }
  const json& sections = parser.at(j, "sections");
  if (!sections.is_object()) parser.fail("'sections' is not an object");
  for (const auto& [name, value] : sections.items()) manifest.sections[name] = value.dump();
  return manifest;
}

}  // namespace trireme
