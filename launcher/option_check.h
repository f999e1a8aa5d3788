// Checks of command-line options that refuse a value in the words of the config's errors.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>

namespace trireme {

/// For whole numbers: refuses one below `least`. What is no number is left to the option's type.
CLI::Validator at_least_option(int64_t least);

/// For numbers: refuses all that are not above 0.
CLI::Validator above_zero_option();

}  // namespace trireme
