#include "launcher/option_check.h"

#include <fmt/format.h>

#include <charconv>
#include <string>

namespace trireme {

CLI::Validator at_least_option(int64_t least) {
  const auto problem_of = [least](const std::string& text) -> std::string {
    int64_t value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    if (parsed.ec != std::errc() || value >= least) return "";
    return fmt::format("wanted a whole number of at least {}, got {}", least, text);
  };
  return {problem_of, ""};
}

CLI::Validator above_zero_option() {
  const auto problem_of = [](const std::string& text) -> std::string {
    double value = 0.0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    return parsed.ec == std::errc() && value > 0.0 ? "" : fmt::format("wanted a number above 0, got {}", text);
  };
  return {problem_of, ""};
}

}  // namespace trireme
