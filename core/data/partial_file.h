// PartialFile: a file being written under a temporary name, which gets its own name when it is whole.
#pragma once

#include <filesystem>

#include "core/files.h"

namespace trireme {

inline constexpr const char* kPartialSuffix = ".partial";

/// Writes NAME.partial; publish() renames it to NAME. Destroyed before that, it removes what it wrote.
class PartialFile {
 public:
  explicit PartialFile(std::filesystem::path path);
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  OutputFile& output() { return output_; }
  const std::filesystem::path& path() const { return path_; }  // the final one
  void publish();                                              // after output().sync_and_close()

 private:
  std::filesystem::path path_;
  OutputFile output_;
  bool published_ = false;
};

}  // namespace trireme
