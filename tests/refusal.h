// What a user would read of a call that is refused.
#pragma once

#include <string>

#include "core/error.h"

namespace trireme {

/// The message of the ConfigError that `act` throws; `accepted` when it throws none.
template <class Act>
std::string refusal_of(const Act& act, std::string accepted = "accepted") {
  try {
    act();
  } catch (const ConfigError& e) {
    return e.what();
  }
  return accepted;
}

}  // namespace trireme
