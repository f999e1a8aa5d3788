// safetensors files: 8 bytes of header length, a JSON header that names each tensor, then the tensors' bytes
// without gaps. Format: https://github.com/huggingface/safetensors. Reading checks everything before a byte
// is trusted.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/dtype.h"
#include "core/files.h"
#include "core/shape.h"

namespace trireme {

using SafetensorsMetadata = std::map<std::string, std::string>;

/// One tensor of a file. BOOL is read as u8.
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::span<const std::byte> bytes;  // row-major, little-endian; may lie at any address
};

/// The parsed header of a file's bytes, which must outlive it.
class SafetensorsView {
 public:
  /// ConfigError naming `file` and the tensor when anything is not as the format says.
  SafetensorsView(std::span<const std::byte> bytes, std::string file);

  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // in the order of their bytes
  const SafetensorsEntry* find(const std::string& name) const;               // null when there is none
  const SafetensorsMetadata& metadata() const { return metadata_; }
  std::span<const std::byte> header() const { return header_; }  // the length and the JSON

 private:
  std::span<const std::byte> header_;
  std::vector<SafetensorsEntry> entries_;
  std::unordered_map<std::string, size_t> index_;
  SafetensorsMetadata metadata_;
};

/// A file on disk, mapped.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path)
      : file_(path), view_(file_.bytes(), path.string()) {}
  const SafetensorsView* operator->() const { return &view_; }

 private:
  MappedFile file_;
  SafetensorsView view_;
};

/// Name, type and shape of a tensor that is to be written.
struct SafetensorsSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
};

/// Writes a file in one pass and without copies: tensors are appended behind room kept for the header, which
/// is written last. A file whose writing was cut short has a header length of 0 and is refused by every
/// reader.
class SafetensorsWriter {
 public:
  SafetensorsWriter(std::filesystem::path path, size_t header_room_bytes,
                    const SafetensorsMetadata& metadata = {});
  /// For tensors that are all known: room for just their header.
  SafetensorsWriter(std::filesystem::path path, std::span<const SafetensorsSpec> tensors,
                    const SafetensorsMetadata& metadata = {});

  /// False when the header would not fit its room.
  bool has_room(const SafetensorsSpec& tensor) const;
  void begin_tensor(const SafetensorsSpec& tensor);
  void append(std::span<const std::byte> bytes);  // of the tensor begun last; in as many pieces as wanted
  /// Writes the header and waits until all is on the disk. Returns the header's bytes.
  std::string finish();

  const std::filesystem::path& path() const { return file_.path(); }
  uint64_t file_bytes() const { return file_.size_bytes(); }

 private:
  uint64_t data_bytes() const { return file_.size_bytes() - header_room_bytes_; }

  OutputFile file_;
  size_t header_room_bytes_;
  std::string header_;                // the JSON so far
  uint64_t declared_data_bytes_ = 0;  // the end of the tensor begun last
};

}  // namespace trireme
