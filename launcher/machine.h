// What this process may use of the machine: cores, and the programs that start ranks.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace trireme {

struct Machine {
  int cores = 1;  // physical, that this process may run on and has the quota for
  bool may_bind =
      true;  // false in a container or job that has a part of the machine: pinning to it would mislead
  bool is_root = false;
  bool has_terminal = false;                    // standard output is one
  int terminal_columns = 0;                     // of that; 0: not known
  std::filesystem::path executable;             // this program
  std::optional<std::filesystem::path> mpirun;  // where PATH finds it
};

Machine detect_machine();

/// "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz", as the kernel calls it; "unknown" where it doesn't.
std::string cpu_model();

/// The executable file `name` in the folders of PATH.
std::optional<std::filesystem::path> find_program(std::string_view name);

}  // namespace trireme
