// LocalWorld: ranks as threads of one process, for tests of everything that communicates and for `trireme bench`.
#pragma once

#include <functional>

#include "comm/group.h"

namespace trireme {

class LocalWorld {
 public:
  explicit LocalWorld(int size, GroupOptions options = {}) : size_(size), options_(options) {}

  /// Runs `body` on `size` threads, each with its own rank of a new world, and waits for all. When one of
  /// them throws, the others' operations throw a CommError that says so, and the first exception is thrown
  /// on.
  void run(const std::function<void(Group& world)>& body);

 private:
  int size_;
  GroupOptions options_;
};

}  // namespace trireme
