// What every implementation of Group must do, as one table. Run over threads by local_conformance_test.cpp
// and over processes by mpi/conformance_main.cpp. A case is called on every rank and throws when a claim does
// not hold.
#pragma once

#include <functional>
#include <span>
#include <string_view>

#include "comm/group.h"

namespace trireme {

struct ConformanceCase {
  std::string_view name;
  void (*run)(Group& world);
};
std::span<const ConformanceCase> conformance_cases();

}  // namespace trireme
