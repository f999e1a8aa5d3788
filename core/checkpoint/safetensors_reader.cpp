// Reading of safetensors files.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/checkpoint/json_text.h"
#include "core/checkpoint/safetensors.h"
#include "core/error.h"

namespace trireme {
namespace {

using nlohmann::json;
static_assert(std::endian::native == std::endian::little, "safetensors is little-endian");

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's bound

struct TypeName {
  std::string_view name;
  DType dtype;
};
constexpr TypeName kTypes[] = {{"F32", DType::f32}, {"BF16", DType::bf16}, {"F16", DType::f16},
                               {"F64", DType::f64}, {"I32", DType::i32},   {"I64", DType::i64},
                               {"U16", DType::u16}, {"U8", DType::u8},     {"BOOL", DType::u8}};

/// Reads the header of one file; every message names the file.
class HeaderParser {
 public:
  HeaderParser(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  std::span<const std::byte> header() const { return bytes_.first(data_begin_); }

  json parse() {
    if (bytes_.size() < kLengthBytes)
      fail(fmt::format("has {} bytes, too few for a safetensors file", bytes_.size()));
    uint64_t length = 0;
    std::memcpy(&length, bytes_.data(), kLengthBytes);
    if (length == 0) fail("has no header: its writing was cut short");
    if (length > kMaxHeaderBytes || length > bytes_.size() - kLengthBytes)
      fail(fmt::format("is not a whole safetensors file: it tells of a header of {} bytes in a file of {}",
                       length, bytes_.size()));
    data_begin_ = kLengthBytes + static_cast<size_t>(length);
    const auto* text = reinterpret_cast<const char*>(bytes_.data()) + kLengthBytes;
    json header = parse_json({text, static_cast<size_t>(length)}, file_);
    if (!header.is_object()) fail("has a header that is not a JSON object: the file is damaged");
    return header;
  }

  SafetensorsEntry entry(const std::string& name, const json& value) const {
    const auto wrong = [&](const std::string& what) { fail(fmt::format("tensor '{}': {}", name, what)); };
    if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") ||
        !value.contains("data_offsets"))
      wrong("has no dtype, shape and data_offsets");
    SafetensorsEntry entry{name, dtype(name, value["dtype"]), {}, {}};

    const std::vector<uint64_t> shape = numbers(name, value["shape"], "shape");
    if (shape.size() > static_cast<size_t>(Shape::kMaxDims))
      wrong(fmt::format("has {} dimensions; at most {} are supported", shape.size(), Shape::kMaxDims));
    const uint64_t data_bytes = bytes_.size() - data_begin_;
    std::vector<int64_t> dims;
    uint64_t bytes = size_of(entry.dtype);
    for (uint64_t dim : shape) {
      // A size that the file cannot hold is refused here, before a product can overflow.
      if (dim != 0 && bytes > std::numeric_limits<int64_t>::max() / dim) wrong("its shape is too large");
      bytes *= dim;
      dims.push_back(static_cast<int64_t>(dim));
    }
    entry.shape = Shape(dims);

    const std::vector<uint64_t> offsets = numbers(name, value["data_offsets"], "data_offsets");
    if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_bytes)
      wrong(fmt::format(
          "its data_offsets {} do not lie in the {} bytes of data that the file has; is it truncated?",
          value["data_offsets"].dump(), data_bytes));
    if (offsets[1] - offsets[0] != bytes)
      wrong(fmt::format("{} elements of {} need {} bytes, its data_offsets hold {}", to_string(entry.shape),
                        name_of(entry.dtype), bytes, offsets[1] - offsets[0]));
    entry.bytes = bytes_.subspan(data_begin_ + offsets[0], bytes);
    return entry;
  }

  /// The format wants the tensors to cover the data without gap or overlap.
  void check_cover(std::span<const SafetensorsEntry> sorted) const {
    const std::byte* end = bytes_.data() + data_begin_;
    for (const SafetensorsEntry& entry : sorted) {
      if (entry.bytes.data() < end) fail(fmt::format("tensor '{}' overlaps the one before it", entry.name));
      if (entry.bytes.data() > end)
        fail(fmt::format("has {} bytes before tensor '{}' that no tensor covers", entry.bytes.data() - end,
                         entry.name));
      end = entry.bytes.data() + entry.bytes.size();
    }
    if (const auto left = bytes_.data() + bytes_.size() - end; left != 0)
      fail(fmt::format("has {} bytes after the last tensor", left));
  }

  [[noreturn]] void fail(const std::string& what) const { throw ConfigError(file_ + ": " + what); }

 private:
  DType dtype(const std::string& name, const json& value) const {
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    for (const TypeName& type : kTypes)
      if (type.name == text) return type.dtype;
    fail(fmt::format(
        "tensor '{}' is of type {}; F32, BF16, F16, F64, I32, I64, U16, U8 and BOOL are supported", name,
        text));
  }

  std::vector<uint64_t> numbers(const std::string& name, const json& value, const char* what) const {
    std::vector<uint64_t> result;
    bool right = value.is_array();
    for (size_t i = 0; right && i < value.size(); ++i) {
      right = value[i].is_number_unsigned();
      if (right) result.push_back(value[i].get<uint64_t>());
    }
    if (!right) fail(fmt::format("tensor '{}': its {} is not a list of sizes", name, what));
    return result;
  }

  std::span<const std::byte> bytes_;
  const std::string& file_;
  size_t data_begin_ = 0;
};

}  // namespace

SafetensorsView::SafetensorsView(std::span<const std::byte> bytes, std::string file) {
  HeaderParser parser(bytes, file);
  const json header = parser.parse();
  header_ = parser.header();
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") {
      entries_.push_back(parser.entry(name, value));
      continue;
    }
    if (!value.is_object()) parser.fail("has a __metadata__ that is not an object");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) parser.fail(fmt::format("has __metadata__ '{}' that is not a text", key));
      metadata_[key] = text.get<std::string>();
    }
  }
  // By the end too: an empty tensor comes before the one that begins where it lies.
  std::ranges::sort(entries_, {}, [](const SafetensorsEntry& e) {
    return std::pair(e.bytes.data(), e.bytes.data() + e.bytes.size());
  });
  parser.check_cover(entries_);
  for (size_t i = 0; i < entries_.size(); ++i) index_[entries_[i].name] = i;
}

const SafetensorsEntry* SafetensorsView::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

}  // namespace trireme
