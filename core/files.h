// What checkpoints and token shards ask of the operating system: files mapped for reading, files that are on
// the disk when they are said to be, and folders whose names are. Every refusal is an IoError that names the
// file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace trireme {

/// A whole file as read-only memory.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

/// A file being written. Not on the disk for sure before sync_and_close() came back.
class OutputFile {
 public:
  explicit OutputFile(std::filesystem::path path);  // created, or emptied
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void append(std::span<const std::byte> bytes);
  void write_at(uint64_t offset_bytes, std::span<const std::byte> bytes);
  void sync_and_close();

  uint64_t size_bytes() const { return size_bytes_; }  // what append() wrote
  const std::filesystem::path& path() const { return path_; }

 private:
  [[noreturn]] void fail(const char* what) const;

  std::filesystem::path path_;
  int fd_ = -1;
  uint64_t size_bytes_ = 0;
};

/// Writes `text` to `path` and waits until it is on the disk.
void write_text_durably(const std::filesystem::path& path, std::string_view text);
std::string read_text(const std::filesystem::path& path);

/// Waits until the names in `folder` are on the disk.
void sync_folder(const std::filesystem::path& folder);

/// rename(2): replaces a file; a folder only when `to` does not exist or is empty.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);
/// Swaps two names in one step; false where the file system cannot (NFS, for one).
bool exchange_paths(const std::filesystem::path& a, const std::filesystem::path& b);

}  // namespace trireme
