// Reading UTF-8 that may be damaged.
#pragma once

#include <cstddef>
#include <string_view>

namespace trireme {

/// Bytes of the character that starts at `text[at]`; 0 when what is there is not valid UTF-8 (overlong forms
/// and surrogates are not; RFC 3629).
size_t utf8_length(std::string_view text, size_t at);

/// Whether all of it is.
bool is_utf8(std::string_view text);

/// Whether a character may start with this byte: it is no continuation byte.
inline bool is_utf8_start(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) != 0x80;
}

}  // namespace trireme
