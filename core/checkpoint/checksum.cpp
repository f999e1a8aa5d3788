#include "core/checkpoint/checksum.h"

#include <fmt/format.h>
#include <xxhash.h>

namespace trireme {

uint64_t xxh3(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

uint64_t xxh3(std::string_view text) {
  return xxh3(std::as_bytes(std::span(text)));
}

std::string checksum_text(uint64_t checksum) {
  return fmt::format("{:016x}", checksum);
}

}  // namespace trireme
