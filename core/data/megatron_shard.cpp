#include "core/data/megatron_shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <string_view>

#include "core/error.h"

namespace trireme {
namespace {

constexpr std::string_view kMagic("MMIDIDX\0\0", 9);
constexpr uint64_t kVersion = 1;
constexpr int64_t kMaxSequenceTokens = int64_t{1} << 30;

struct TypeCode {
  uint8_t code;
  TokenType type;
};
constexpr TypeCode kTypeCodes[] = {
    {1, TokenType::u8}, {4, TokenType::i32}, {5, TokenType::i64}, {8, TokenType::u16}};

[[noreturn]] void fail(const std::string& name, const std::string& what) {
  throw ConfigError(
      fmt::format("{}: {}; copy the .idx and .bin again, or make them again with `trireme prepare "
                  "--format megatron`",
                  name, what));
}

/// Takes values off the front of the index.
class IndexReader {
 public:
  IndexReader(const std::string& name, std::span<const std::byte> bytes) : name_(name), rest_(bytes) {}

  template <class T>
  T take(std::string_view field) {
    T value;
    std::memcpy(&value, take_array(1, sizeof(T), field).data(), sizeof(T));
    return value;
  }

  std::span<const std::byte> take_array(uint64_t count, size_t element_bytes, std::string_view field) {
    if (count > rest_.size() / element_bytes)
      fail(name_,
           fmt::format(
               "{} x {} bytes of {} are wanted, only {} bytes are left: the index is truncated or damaged",
               count, element_bytes, field, rest_.size()));
    const auto taken = rest_.first(count * element_bytes);
    rest_ = rest_.subspan(taken.size());
    return taken;
  }

  size_t bytes_left() const { return rest_.size(); }

 private:
  const std::string& name_;
  std::span<const std::byte> rest_;
};

template <class T>
T element(std::span<const std::byte> array, uint64_t i) {
  T value;
  std::memcpy(&value, array.data() + i * sizeof(T), sizeof(T));
  return value;
}

TokenType type_of(const std::string& name, uint8_t code) {
  for (const TypeCode& known : kTypeCodes)
    if (known.code == code) return known.type;
  fail(name, fmt::format("token type 1 (uint8), 4 (int32), 5 (int64) or 8 (uint16) is wanted, got {}", code));
}

/// Where the sequences lie, neighbours joined; checks each against the size of the .bin file.
std::vector<TokenShard::Run> join_sequences(const std::string& name, uint64_t num_sequences,
                                            std::span<const std::byte> lengths,
                                            std::span<const std::byte> pointers, size_t token_output,
                                            size_t bin_bytes, int64_t& num_tokens) {
  std::vector<TokenShard::Run> runs;
  size_t next_byte = 0;
  for (uint64_t i = 0; i < num_sequences; ++i) {
    const auto length = element<int32_t>(lengths, i);
    const auto pointer = element<int64_t>(pointers, i);
    if (length < 0 || pointer < 0 || static_cast<uint64_t>(pointer) > bin_bytes ||
        static_cast<uint64_t>(length) > (bin_bytes - static_cast<size_t>(pointer)) / token_output)
      fail(name,
           fmt::format(
               "sequence {} has {} tokens of {} bytes from byte {} on, which the {} bytes of the .bin don't "
               "hold",
               i, length, token_output, pointer, bin_bytes));
    const auto first_byte = static_cast<size_t>(pointer);
    if (length > 0 && (runs.empty() || first_byte != next_byte)) runs.push_back({num_tokens, first_byte});
    if (length > 0) next_byte = first_byte + static_cast<size_t>(length) * token_output;
    num_tokens += length;
  }
  return runs;
}

void check_documents(const std::string& name, std::span<const std::byte> ends, uint64_t count,
                     uint64_t num_sequences) {
  int64_t previous = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const auto end = element<int64_t>(ends, i);
    if (end < previous || static_cast<uint64_t>(end) > num_sequences || (i == 0 && end != 0))
      fail(name, fmt::format("document entry {} is {}: it must be {} and not above the {} sequences", i, end,
                             i == 0 ? "0" : fmt::format("at least {}", previous), num_sequences));
    previous = end;
  }
}

}  // namespace

TokenShard parse_megatron_shard(const std::string& index_name, std::span<const std::byte> index,
                                const std::string& tokens_name, std::span<const std::byte> tokens) {
  IndexReader reader(index_name, index);
  const auto magic = reader.take_array(kMagic.size(), 1, "the magic");
  if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0)
    fail(index_name, "not an index of Megatron-LM: the magic MMIDIDX is wanted at its beginning");
  if (const auto version = reader.take<uint64_t>("the version"); version != kVersion)
    fail(index_name, fmt::format("version {} is wanted, got {}", kVersion, version));
  const TokenType type = type_of(index_name, reader.take<uint8_t>("the token type"));
  const auto num_sequences = reader.take<uint64_t>("the number of sequences");
  const auto num_document_entries = reader.take<uint64_t>("the number of documents");
  const auto lengths = reader.take_array(num_sequences, sizeof(int32_t), "sequence lengths");
  const auto pointers = reader.take_array(num_sequences, sizeof(int64_t), "sequence pointers");
  const auto document_ends = reader.take_array(num_document_entries, sizeof(int64_t), "documents");
  if (reader.bytes_left() != 0 && reader.bytes_left() != num_sequences)
    fail(index_name, fmt::format("{} bytes too many for {} sequences and {} document entries",
                                 reader.bytes_left(), num_sequences, num_document_entries));
  check_documents(index_name, document_ends, num_document_entries, num_sequences);
  int64_t num_tokens = 0;
  auto runs =
      join_sequences(index_name, num_sequences, lengths, pointers, size_of(type), tokens.size(), num_tokens);
  TokenShard shard(tokens_name, tokens, type, std::move(runs), num_tokens);
  shard.num_documents = num_document_entries > 0 ? static_cast<int64_t>(num_document_entries) - 1 : 0;
  return shard;
}

MegatronShardWriter::MegatronShardWriter(const std::filesystem::path& bin_file, int64_t vocab)
    : tokens_file_(bin_file),
      index_file_(index_file_of(bin_file)),
      type_(vocab > std::numeric_limits<uint16_t>::max() + int64_t{1} ? TokenType::i32 : TokenType::u16),
      tokens_(tokens_file_.output(), type_) {}

void MegatronShardWriter::append(std::span<const int32_t> tokens) {
  tokens_.append(tokens);
  num_tokens_ += static_cast<int64_t>(tokens.size());
  while (num_tokens_ - sequence_begin_ > kMaxSequenceTokens) end_sequence();
}

void MegatronShardWriter::end_sequence() {
  const int64_t length = std::min(num_tokens_ - sequence_begin_, kMaxSequenceTokens);
  sequence_tokens_.push_back(static_cast<int32_t>(length));
  sequence_begin_ += length;
}

void MegatronShardWriter::end_document() {
  if (num_tokens_ > sequence_begin_) end_sequence();
  const auto sequences = static_cast<int64_t>(sequence_tokens_.size());
  if (sequences > document_ends_.back()) document_ends_.push_back(sequences);
}

void MegatronShardWriter::finish() {
  end_document();  // one that was cut at the end of the shard
  std::vector<int64_t> pointers;
  pointers.reserve(sequence_tokens_.size());
  int64_t bytes = 0;
  for (const int32_t length : sequence_tokens_) {
    pointers.push_back(bytes);
    bytes += length * static_cast<int64_t>(size_of(type_));
  }
  const auto append = [this](const auto& values) {
    index_file_.output().append(std::as_bytes(std::span(values)));
  };
  const auto code = std::ranges::find(kTypeCodes, type_, &TypeCode::type)->code;
  append(kMagic);
  append(std::array{kVersion});
  append(std::array{code});
  append(std::array<uint64_t, 2>{sequence_tokens_.size(), document_ends_.size()});
  append(sequence_tokens_);
  append(pointers);
  append(document_ends_);
  tokens_.flush();
  tokens_file_.output().sync_and_close();
  index_file_.output().sync_and_close();
}

}  // namespace trireme
