#include "core/data/token_output.h"

#include <cstring>
#include <utility>

#include "core/error.h"

namespace trireme {
namespace {

constexpr size_t kFlushBytes = size_t{1} << 20;

}  // namespace

void TokenOutput::append(std::span<const int32_t> tokens) {
  const size_t width = size_of(type_);
  TRIREME_ASSERT(width == sizeof(uint16_t) || width == sizeof(int32_t),
                 "shards are written as uint16, int32 or uint32");
  const size_t old_size = buffer_.size();
  buffer_.resize(old_size + tokens.size() * width);
  std::byte* to = buffer_.data() + old_size;
  for (const int32_t token : tokens) {
    TRIREME_ASSERT(token >= 0 && (width > sizeof(uint16_t) || std::in_range<uint16_t>(token)),
                   "a token does not fit");
    std::memcpy(to, &token, width);  // little-endian: the low bytes come first
    to += width;
  }
  if (buffer_.size() >= kFlushBytes) flush();
}

void TokenOutput::flush() {
  file_.append(buffer_);
  buffer_.clear();
}

}  // namespace trireme
