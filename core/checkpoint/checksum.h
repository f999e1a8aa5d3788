// XXH3-64 of bytes, and its text form in manifests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace trireme {

uint64_t xxh3(std::span<const std::byte> bytes);
uint64_t xxh3(std::string_view text);
std::string checksum_text(uint64_t checksum);  // 16 hexadecimal digits

}  // namespace trireme
