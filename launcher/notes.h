// Notes: what the ranks' devices do less well than they could (Backend::add_note), told once by rank 0.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "comm/group.h"
#include "core/backend.h"

namespace trireme {

class Notes {
 public:
  explicit Notes(Backend& backend) : backend_(backend) {}

  /// This rank's that were not taken before, as lines for the user.
  std::vector<std::string> take();
  /// The same on rank 0 of `world`, and those that only other ranks have, with their ranks; elsewhere none. Collective.
  std::vector<std::string> take_of_all(Group& world);

 private:
  Backend& backend_;
  std::set<std::string> told_;
};

/// Prints them on standard error. Collective.
void print_notes(Backend& backend, Group& world);

}  // namespace trireme
