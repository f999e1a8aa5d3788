// Schedules as text, to read them, change them by hand and bring one's own: a line a rank, a cell an action.
#pragma once

#include <filesystem>

#include "parallel/schedule/schedule.h"

namespace trireme {

/// Reads what write_schedule writes. Line r is that of rank r; its cells, in the order in which they are run,
/// are F0.3, B1.2, I1.2 or W1.2 (see to_string). Empty cells, blanks around cells, empty lines and lines that
/// begin with # mean nothing. A stage belongs to the rank that has its cells; micro-batches are 0 to the
/// largest that is there. The name is the file's without its ending. The result is validated. ConfigError
/// that names the file and, where there is one, the line and the cell; IoError when there is no such file.
Schedule read_schedule(const std::filesystem::path& file);
void write_schedule(const Schedule& schedule, const std::filesystem::path& file);

}  // namespace trireme
