// A group whose operations may take longer for a while.
#pragma once

#include "comm/group.h"

namespace trireme {

class ScopedTimeout {
 public:
  ScopedTimeout(Group& group, int64_t timeout_ms) : group_(group), before_(group.options()) {
    GroupOptions options = before_;
    options.timeout_ms = timeout_ms;
    group_.set_options(options);
  }
  ~ScopedTimeout() { group_.set_options(before_); }
  ScopedTimeout(const ScopedTimeout&) = delete;
  ScopedTimeout& operator=(const ScopedTimeout&) = delete;

 private:
  Group& group_;
  GroupOptions before_;
};

}  // namespace trireme
