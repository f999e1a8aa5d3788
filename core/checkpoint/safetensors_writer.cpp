// Writing of safetensors files.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/checkpoint/safetensors.h"
#include "core/error.h"

namespace trireme {
namespace {

using nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr size_t kAlignBytes = 8;  // of the data's begin

std::string_view type_name(DType dtype) {
  constexpr std::string_view kNames[] = {"F32", "BF16", "F16", "F64", "I32", "I64", "U16", "U8"};
  return kNames[static_cast<size_t>(dtype)];
}

uint64_t bytes_of(const SafetensorsSpec& tensor) {
  return static_cast<uint64_t>(tensor.shape.numel()) * size_of(tensor.dtype);
}

size_t round_up(size_t bytes) {
  return (bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes;
}

std::string header_begin(const SafetensorsMetadata& metadata) {
  return metadata.empty() ? "{" : fmt::format("{{\"__metadata__\":{}", json(metadata).dump());
}

/// `"name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}`, with a comma unless it is the first of
/// `header`.
std::string entry_text(const std::string& header, const SafetensorsSpec& tensor, uint64_t begin_bytes) {
  return fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                     header.size() > 1 ? "," : "", json(tensor.name).dump(), type_name(tensor.dtype),
                     fmt::join(tensor.shape.dims(), ","), begin_bytes, begin_bytes + bytes_of(tensor));
}

size_t exact_room(std::span<const SafetensorsSpec> tensors, const SafetensorsMetadata& metadata) {
  std::string header = header_begin(metadata);
  uint64_t begin_bytes = 0;
  for (const SafetensorsSpec& tensor : tensors) {
    header += entry_text(header, tensor, begin_bytes);
    begin_bytes += bytes_of(tensor);
  }
  return kLengthBytes + header.size() + 1;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, size_t header_room_bytes,
                                     const SafetensorsMetadata& metadata)
    : file_(std::move(path)),
      header_room_bytes_(round_up(header_room_bytes)),
      header_(header_begin(metadata)) {
  TRIREME_ASSERT(header_.size() + 1 + kLengthBytes <= header_room_bytes_, "no room for the metadata");
  file_.append(std::vector<std::byte>(header_room_bytes_));
}

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, std::span<const SafetensorsSpec> tensors,
                                     const SafetensorsMetadata& metadata)
    : SafetensorsWriter(std::move(path), exact_room(tensors, metadata), metadata) {}

bool SafetensorsWriter::has_room(const SafetensorsSpec& tensor) const {
  return kLengthBytes + header_.size() + entry_text(header_, tensor, declared_data_bytes_).size() + 1 <=
         header_room_bytes_;
}

void SafetensorsWriter::begin_tensor(const SafetensorsSpec& tensor) {
  TRIREME_ASSERT(data_bytes() == declared_data_bytes_,
                 "the tensor before " + tensor.name + " is not complete");
  TRIREME_ASSERT(has_room(tensor), "no room in the header for " + tensor.name);
  header_ += entry_text(header_, tensor, declared_data_bytes_);
  declared_data_bytes_ += bytes_of(tensor);
}

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  TRIREME_ASSERT(data_bytes() + bytes.size() <= declared_data_bytes_,
                 "more bytes than the tensor's shape holds");
  file_.append(bytes);
}

std::string SafetensorsWriter::finish() {
  TRIREME_ASSERT(data_bytes() == declared_data_bytes_, "the last tensor is not complete");
  header_ += "}";
  const uint64_t length = header_room_bytes_ - kLengthBytes;
  std::string head(kLengthBytes, '\0');
  for (size_t i = 0; i < kLengthBytes; ++i) head[i] = static_cast<char>(length >> (8 * i));
  head += header_;
  head.resize(header_room_bytes_, ' ');
  file_.write_at(0, std::as_bytes(std::span(head)));
  file_.sync_and_close();
  return head;
}

}  // namespace trireme
