// A log file that is only appended to: each append is one write(2), so a reader or a crash sees whole
// records.
#pragma once

#include <filesystem>
#include <string_view>

namespace trireme {

class AppendFile {
 public:
  /// Opens or makes `path` and its folders; keeps its first `keep_bytes` bytes and cuts off the rest.
  /// IoError, here and below, names the file and the reason.
  explicit AppendFile(std::filesystem::path path, uintmax_t keep_bytes = 0);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view bytes);

 private:
  [[noreturn]] void fail(const char* what) const;  // with errno

  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace trireme
