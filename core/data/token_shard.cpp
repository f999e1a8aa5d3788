#include "core/data/token_shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "core/data/llmc_shard.h"
#include "core/data/megatron_shard.h"
#include "core/error.h"
#include "core/files.h"

namespace trireme {
namespace {

static_assert(std::endian::native == std::endian::little, "shards are little-endian");

/// Tokens of type T at `bytes`, which need not be aligned.
template <class T>
void convert(const std::byte* bytes, std::span<int32_t> out) {
  for (int32_t& token : out) {
    T value;
    std::memcpy(&value, bytes, sizeof(T));
    token = std::in_range<int32_t>(value) ? static_cast<int32_t>(value) : std::numeric_limits<int32_t>::max();
    bytes += sizeof(T);
  }
}

void convert(TokenType type, const std::byte* bytes, std::span<int32_t> out) {
  switch (type) {
    case TokenType::u8:
      return convert<uint8_t>(bytes, out);
    case TokenType::u16:
      return convert<uint16_t>(bytes, out);
    case TokenType::i32:
      return convert<int32_t>(bytes, out);
    case TokenType::u32:
      return convert<uint32_t>(bytes, out);
    case TokenType::i64:
      return convert<int64_t>(bytes, out);
  }
}

/// A mapped file that a shard can own.
std::shared_ptr<const MappedFile> map_file(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file))
    throw ConfigError(fmt::format("{}: no such file; `trireme prepare` makes token shards", file.string()));
  return std::make_shared<const MappedFile>(file);
}

}  // namespace

size_t size_of(TokenType type) {
  constexpr size_t kSizes[] = {1, 2, 4, 4, 8};
  return kSizes[static_cast<size_t>(type)];
}

std::string_view name_of(TokenType type) {
  constexpr std::string_view kNames[] = {"uint8", "uint16", "int32", "uint32", "int64"};
  return kNames[static_cast<size_t>(type)];
}

TokenShard::TokenShard(std::string name, std::span<const std::byte> bytes, TokenType type,
                       std::vector<Run> runs, int64_t num_tokens)
    : name_(std::move(name)), bytes_(bytes), type_(type), runs_(std::move(runs)), num_tokens_(num_tokens) {
  TRIREME_ASSERT(num_tokens_ == 0 || (!runs_.empty() && runs_.front().first_token == 0),
                 name_ + ": tokens without a run");
}

void TokenShard::read(int64_t begin, std::span<int32_t> out) const {
  TRIREME_ASSERT(begin >= 0 && static_cast<int64_t>(out.size()) <= num_tokens_ - begin,
                 fmt::format("{}: tokens [{}, {}) of {}", name_, begin, begin + out.size(), num_tokens_));
  auto run = std::ranges::upper_bound(runs_, begin, {}, &Run::first_token);
  while (!out.empty()) {
    const Run& current = *(run - 1);
    const int64_t run_end = run == runs_.end() ? num_tokens_ : run->first_token;
    const size_t count = std::min(out.size(), static_cast<size_t>(run_end - begin));
    const size_t skipped = static_cast<size_t>(begin - current.first_token);
    const auto part = bytes_.subspan(current.first_byte + skipped * size_of(type_), count * size_of(type_));
    convert(type_, part.data(), out.first(count));
    begin += static_cast<int64_t>(count);
    out = out.subspan(count);
    ++run;
  }
}

std::filesystem::path index_file_of(const std::filesystem::path& bin_file) {
  return std::filesystem::path(bin_file).replace_extension(".idx");
}

TokenShard open_token_shard(const std::filesystem::path& bin_file) {
  const auto tokens = map_file(bin_file);
  const std::filesystem::path index_file = index_file_of(bin_file);
  if (std::filesystem::exists(index_file)) {
    const MappedFile index(index_file);
    TokenShard shard =
        parse_megatron_shard(index_file.string(), index.bytes(), bin_file.string(), tokens->bytes());
    shard.owner = tokens;
    return shard;
  }
  TokenShard shard = parse_llmc_shard(bin_file.string(), tokens->bytes());
  shard.owner = tokens;
  return shard;
}

}  // namespace trireme
