#include "core/error.h"

#include <fmt/format.h>

namespace trireme {

void assert_failed(const char* condition, const char* file, int line, const std::string& message) {
  throw InternalError(fmt::format("{}:{}: {} (a bug in Trireme: the check `{}` failed)", file, line, message, condition));
}

}  // namespace trireme
