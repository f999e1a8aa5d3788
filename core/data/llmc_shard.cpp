#include "core/data/llmc_shard.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <limits>

#include "core/error.h"

namespace trireme {
namespace {

using Header = std::array<int32_t, 256>;

struct Variant {
  int32_t magic;
  int32_t version;
  TokenType type;
};
constexpr Variant kNarrow{20240520, 1, TokenType::u16};
constexpr Variant kWide{20240801, 7, TokenType::u32};

const Variant& variant_of(const std::string& name, const Header& header) {
  for (const Variant* variant : {&kNarrow, &kWide}) {
    if (header[0] != variant->magic) continue;
    if (header[1] == variant->version) return *variant;
    throw ConfigError(
        fmt::format("{}: version {} of llm.c's shards is wanted with this magic, got {}; write the shard "
                    "again with `trireme prepare`",
                    name, variant->version, header[1]));
  }
  throw ConfigError(
      fmt::format("{}: not a token shard: the magic {} (or {}) of llm.c is wanted, got {}; make shards "
                  "with `trireme prepare`, or put the .idx beside a Megatron-LM .bin",
                  name, kNarrow.magic, kWide.magic, header[0]));
}

}  // namespace

TokenShard parse_llmc_shard(const std::string& name, std::span<const std::byte> bytes) {
  Header header;
  if (bytes.size() < sizeof(header))
    throw ConfigError(
        fmt::format("{}: the header of a token shard has {} bytes, the file only {}: it is truncated or "
                    "not a shard; make it again with `trireme prepare`",
                    name, sizeof(header), bytes.size()));
  std::memcpy(header.data(), bytes.data(), sizeof(header));
  const Variant& variant = variant_of(name, header);
  const int64_t num_tokens = header[2];
  const int64_t wanted_bytes = num_tokens * static_cast<int64_t>(size_of(variant.type));
  const auto got_bytes = static_cast<int64_t>(bytes.size() - sizeof(header));
  if (num_tokens < 0 || wanted_bytes != got_bytes)
    throw ConfigError(
        fmt::format("{}: the header tells of {} {} tokens, {} bytes, but {} bytes follow it: the file is "
                    "truncated or damaged; copy it again, or make it again with `trireme prepare`",
                    name, num_tokens, name_of(variant.type), wanted_bytes, got_bytes));
  return TokenShard(name, bytes.subspan(sizeof(header)), variant.type, {{}}, num_tokens);
}

LlmcShardWriter::LlmcShardWriter(const std::filesystem::path& bin_file, int64_t vocab)
    : file_(bin_file),
      wide_(vocab > std::numeric_limits<uint16_t>::max() + int64_t{1}),
      tokens_(file_.output(), (wide_ ? kWide : kNarrow).type) {
  const Header header{};  // finish() fills it in
  file_.output().append(std::as_bytes(std::span(header)));
}

void LlmcShardWriter::append(std::span<const int32_t> tokens) {
  tokens_.append(tokens);
  num_tokens_ += static_cast<int64_t>(tokens.size());
}

void LlmcShardWriter::finish() {
  if (num_tokens_ > std::numeric_limits<int32_t>::max())
    throw ConfigError(fmt::format("{}: llm.c's shards hold at most {} tokens, got {}; use smaller shards",
                                  file_.path().string(), std::numeric_limits<int32_t>::max(), num_tokens_));
  tokens_.flush();
  const Variant& variant = wide_ ? kWide : kNarrow;
  const Header header{variant.magic, variant.version, static_cast<int32_t>(num_tokens_)};
  file_.output().write_at(0, std::as_bytes(std::span(header)));
  file_.output().sync_and_close();
}

}  // namespace trireme
