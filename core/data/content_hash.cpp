#include "core/data/content_hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <fstream>

#include "core/checkpoint/checksum.h"
#include "core/error.h"

namespace trireme {

void ContentHash::Free::operator()(XXH3_state_s* state) const {
  XXH3_freeState(state);
}

ContentHash::ContentHash() : state_(XXH3_createState()) {
  XXH3_64bits_reset(state_.get());
}

void ContentHash::add(std::string_view bytes) {
  XXH3_64bits_update(state_.get(), bytes.data(), bytes.size());
}

std::string ContentHash::text() const {
  return checksum_text(XXH3_64bits_digest(state_.get()));
}

std::string hash_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string piece(size_t{1} << 20, '\0');
  ContentHash hash;
  while (in.read(piece.data(), static_cast<std::streamsize>(piece.size())) || in.gcount() > 0)
    hash.add(std::string_view(piece).substr(0, static_cast<size_t>(in.gcount())));
  if (!in.eof()) throw IoError(fmt::format("{}: can't be read", file.string()));
  return hash.text();
}

}  // namespace trireme
