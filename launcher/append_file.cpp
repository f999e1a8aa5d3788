#include "launcher/append_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace trireme {

AppendFile::AppendFile(std::filesystem::path path, uintmax_t keep_bytes) : path_(std::move(path)) {
  std::error_code error;
  if (path_.has_parent_path())
    std::filesystem::create_directories(path_.parent_path(), error);  // open() reports it
  fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd_ < 0) fail("cannot be opened for writing");
  struct stat info {};
  const bool is_file = fstat(fd_, &info) == 0 && S_ISREG(info.st_mode);
  if (is_file && static_cast<uintmax_t>(info.st_size) > keep_bytes &&
      ftruncate(fd_, static_cast<off_t>(keep_bytes)) != 0) {
    const int reason = errno;
    close(fd_);
    errno = reason;
    fail("cannot be cut off");
  }
}

AppendFile::~AppendFile() {
  close(fd_);
}

void AppendFile::append(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("cannot be written");
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

void AppendFile::fail(const char* what) const {
  throw IoError(fmt::format("{} {}: {}", path_.string(), what, std::strerror(errno)));
}

}  // namespace trireme
