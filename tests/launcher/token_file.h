// A shard of tokens that tests train on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <vector>

namespace trireme {

/// Writes tokens[i] = rule(i), below 2^16, as llm.c writes them: 256 words of header, then tokens of 16 bits.
template <class Rule>
void write_token_file(const std::filesystem::path& file, size_t count, const Rule& rule) {
  std::vector<int32_t> header(256, 0);
  header[0] = 20240520, header[1] = 1, header[2] = static_cast<int32_t>(count);
  std::vector<uint16_t> tokens(count);
  for (size_t i = 0; i < count; ++i) tokens[i] = static_cast<uint16_t>(rule(i));
  std::ofstream out(file, std::ios::binary);
  out.write(reinterpret_cast<const char*>(header.data()), 1024);
  out.write(reinterpret_cast<const char*>(tokens.data()), static_cast<std::streamsize>(2 * count));
}

/// A rule that repeats slowly enough to be learnt from, of `vocab` tokens.
inline auto squares(uint64_t vocab) {
  return [vocab](size_t i) { return (i * i / 7 + 3 * i) % vocab; };
}

}  // namespace trireme
