#include "core/checkpoint/json_text.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace trireme {

nlohmann::json parse_json(std::string_view text, const std::string& source) {
  constexpr int kMaxDepth = 64;
  const auto limit_depth = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kMaxDepth)
      throw ConfigError(fmt::format("{}: JSON nested more than {} deep", source, kMaxDepth));
    return true;
  };
  try {
    return nlohmann::json::parse(text, limit_depth);
  } catch (const nlohmann::json::parse_error& error) {  // its text repeats what was read last, which may be long
    throw ConfigError(fmt::format("{}: is not whole JSON, so it is damaged or was cut short (at byte {})", source, error.byte));
  } catch (const nlohmann::json::exception& error) {
    throw ConfigError(fmt::format("{}: is not whole JSON, so it is damaged or was cut short ({})", source, error.what()));
  }
}

}  // namespace trireme
