// SharedCheck: all ranks check a checkpoint together, each its part of the bytes. Rank 0 decides what is checked
// and learns what is wrong; the others serve it.
#pragma once

#include <filesystem>
#include <string>

#include "comm/group.h"

namespace trireme {

class SharedCheck {
 public:
  /// `world`'s time-out is that of checking one part.
  explicit SharedCheck(Group& world) : world_(world) {}

  /// Rank 0: what is wrong with a checkpoint, "" when nothing is. IoError when another rank does not see there what
  /// rank 0 sees: that is no damage, and skipping the checkpoint would lose a run.
  std::string problem_of(const std::filesystem::path& checkpoint);
  /// Rank 0: there is nothing more to check.
  void end();
  /// The other ranks: do what rank 0 asks for until it calls end().
  void serve();

 private:
  std::string check_part(const std::filesystem::path& checkpoint, const std::string& manifest_checksum) const;
  int first_with(const std::string& problem);

  Group& world_;
};

}  // namespace trireme
