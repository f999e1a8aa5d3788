// The rows of the op table: one an operation, in sizes that are odd.
#pragma once

#include <vector>

#include "tests/core/op_table.h"

namespace trireme {

std::vector<OpRow> op_rows();

}  // namespace trireme
