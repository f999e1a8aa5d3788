#include "core/data/partial_file.h"

#include <system_error>
#include <utility>

namespace trireme {

PartialFile::PartialFile(std::filesystem::path path)
    : path_(std::move(path)), output_(path_.string() + kPartialSuffix) {}

PartialFile::~PartialFile() {
  std::error_code ignored;  // nothing more can be done about a file that can't be removed
  if (!published_) std::filesystem::remove(output_.path(), ignored);
}

void PartialFile::publish() {
  rename_path(output_.path(), path_);
  published_ = true;
}

}  // namespace trireme
