// Which ranks of a group run on this machine.
#pragma once

#include <cstdint>
#include <string>

#include "comm/group.h"

namespace trireme {

/// This rank among those of its machine.
struct LocalRanks {
  int rank = 0;
  int size = 1;
  bool operator==(const LocalRanks&) const = default;
};

/// Collective over `group`.
LocalRanks find_local_ranks(Group& group);

/// The same number on all processes of one machine, another one elsewhere: of its name and its boot.
int64_t machine_id();
/// A number that stands for `text`, the same in every process of this program.
int64_t fingerprint(std::string_view text);

}  // namespace trireme
