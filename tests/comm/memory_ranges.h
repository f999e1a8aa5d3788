// Which memory is a stand-in device's, or pinned for it.
#pragma once

#include <cstddef>
#include <iterator>
#include <map>
#include <mutex>

namespace trireme {

/// Used by several threads.
class MemoryRanges {
 public:
  void add(const void* data, size_t bytes) {
    const std::lock_guard lock(mutex_);
    ranges_[data] = bytes;
  }
  void remove(const void* data) {
    const std::lock_guard lock(mutex_);
    ranges_.erase(data);
  }
  bool contains(const void* data) {
    const std::lock_guard lock(mutex_);
    const auto next = ranges_.upper_bound(data);
    if (next == ranges_.begin()) return false;
    const auto& [begin, bytes] = *std::prev(next);
    return static_cast<const std::byte*>(data) < static_cast<const std::byte*>(begin) + bytes;
  }

 private:
  std::mutex mutex_;
  std::map<const void*, size_t> ranges_;  // bytes by where they begin
};

}  // namespace trireme
