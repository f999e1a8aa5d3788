#include "core/data/token_bytes.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/error.h"

namespace trireme {

void append_tokens(OutputFile& file, TokenType type, std::span<const int32_t> tokens) {
  if (type != TokenType::u16) {
    TRIREME_ASSERT(size_of(type) == sizeof(int32_t), "shards are written as uint16, int32 or uint32");
    return file.append(std::as_bytes(tokens));
  }
  TRIREME_ASSERT(std::ranges::all_of(tokens, [](int32_t t) { return std::in_range<uint16_t>(t); }),
                 "a token is too large for uint16");
  const std::vector<uint16_t> narrow(tokens.begin(), tokens.end());
  file.append(std::as_bytes(std::span(narrow)));
}

}  // namespace trireme
