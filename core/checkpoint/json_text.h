// Parsing of JSON that came from outside.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace trireme {

/// ConfigError naming `source` when `text` is not JSON, or nested so deeply that walking it would be unsafe.
nlohmann::json parse_json(std::string_view text, const std::string& source);

}  // namespace trireme
