// Token shards of both layouts: what is written is read, and every kind of damage is named.
#include <array>

#include "core/data/llmc_shard.h"
#include "core/data/megatron_shard.h"
#include "tests/core/data_fixture.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

template <class T>
std::string raw(std::initializer_list<T> values) {
  return {reinterpret_cast<const char*>(values.begin()), values.size() * sizeof(T)};
}

template <class T>
void patch(std::string& bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

std::string llmc_bytes(const std::vector<uint16_t>& tokens) {
  std::array<int32_t, 256> header{20240520, 1, static_cast<int32_t>(tokens.size())};
  std::string bytes(reinterpret_cast<const char*>(header.data()), sizeof(header));
  return bytes.append(reinterpret_cast<const char*>(tokens.data()), tokens.size() * 2);
}

TEST(LlmcShard, LayoutIsThatOfLlmC) {
  const std::string bytes = llmc_bytes({7, 50256, 65535});
  const TokenShard shard = parse_llmc_shard("a.bin", bytes_of(bytes));
  EXPECT_THAT(read_all(shard), ElementsAre(7, 50256, 65535));
  TemporaryFolder folder;
  write_shard(ShardFormat::llmc, folder / "b.bin", std::vector<int32_t>{7, 50256, 65535}, 65536);
  EXPECT_EQ(read_file(folder / "b.bin"), bytes);
}

TEST(LlmcShard, LargeVocabularyIsStoredAsUint32) {
  TemporaryFolder folder;
  write_shard(ShardFormat::llmc, folder / "a.bin", std::vector<int32_t>{1, 128255}, 128256);
  const TokenShard shard = open_token_shard(folder / "a.bin");
  EXPECT_EQ(shard.type(), TokenType::u32);
  EXPECT_THAT(read_all(shard), ElementsAre(1, 128255));
}

TEST(LlmcShard, DamageIsNamed) {
  const std::string good = llmc_bytes({1, 2, 3});
  const auto parse = [](const std::string& bytes) {
    return error_of([&] { parse_llmc_shard("a.bin", bytes_of(bytes)); });
  };
  EXPECT_THAT(parse(good.substr(0, 100)), AllOf(HasSubstr("a.bin"), HasSubstr("1024"), HasSubstr("100")));
  EXPECT_THAT(parse(""), HasSubstr("truncated"));
  EXPECT_THAT(parse(good.substr(0, good.size() - 1)),
              AllOf(HasSubstr("3 uint16 tokens"), HasSubstr("5 bytes follow")));
  EXPECT_THAT(parse(good + "x"), HasSubstr("7 bytes follow"));
  std::string magic = good, version = good, negative = good;
  patch<int32_t>(magic, 0, 99);
  patch<int32_t>(version, 4, 2);
  patch<int32_t>(negative, 8, -3);
  EXPECT_THAT(parse(magic), AllOf(HasSubstr("20240520"), HasSubstr("got 99"), HasSubstr("trireme prepare")));
  EXPECT_THAT(parse(version), AllOf(HasSubstr("version 1"), HasSubstr("got 2")));
  EXPECT_THAT(parse(negative), HasSubstr("-3"));
}

/// An index of two sequences (3 and 2 tokens of uint16) and one document.
struct MegatronBytes {
  std::string index = std::string("MMIDIDX\0\0", 9) + raw<uint64_t>({1}) + raw<uint8_t>({8}) +
                      raw<uint64_t>({2, 2}) + raw<int32_t>({3, 2}) + raw<int64_t>({0, 6}) +
                      raw<int64_t>({0, 2});
  std::string tokens = raw<uint16_t>({1, 2, 3, 4, 5});
  static constexpr size_t kVersionAt = 9, kTypeAt = 17, kCountAt = 18, kLengthsAt = 34, kPointersAt = 42,
                          kDocumentsAt = 58;

  TokenShard parse() const {
    return parse_megatron_shard("a.idx", bytes_of(index), "a.bin", bytes_of(tokens));
  }
  std::string error() const {
    return error_of([this] { parse(); });
  }
};

TEST(MegatronShard, LayoutIsThatOfMegatron) {
  MegatronBytes bytes;
  const TokenShard shard = bytes.parse();
  EXPECT_THAT(read_all(shard), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(shard.num_documents, 1);
  TemporaryFolder folder;
  write_shard(ShardFormat::megatron, folder / "b.bin", std::vector<int32_t>{1, 2, 3, 4, 5});
  EXPECT_EQ(read_file(folder / "b.bin"), bytes.tokens);
  EXPECT_THAT(read_file(folder / "b.idx"), SizeIs(34 + 4 + 8 + 16));  // one sequence, one document
}

TEST(MegatronShard, SequencesAreReadInTheOrderOfTheIndex) {
  MegatronBytes bytes;
  patch<int64_t>(bytes.index, MegatronBytes::kPointersAt, 4);      // tokens 3, 4, 5
  patch<int64_t>(bytes.index, MegatronBytes::kPointersAt + 8, 0);  // then 1, 2
  const TokenShard shard = bytes.parse();
  EXPECT_THAT(read_all(shard), ElementsAre(3, 4, 5, 1, 2));
  std::vector<int32_t> middle(2);
  shard.read(2, middle);
  EXPECT_THAT(middle, ElementsAre(5, 1));
}

TEST(MegatronShard, TokenTypes) {
  MegatronBytes bytes;
  bytes.tokens = raw<int64_t>({1, 2, int64_t{1} << 40, -4, 5});
  patch<uint8_t>(bytes.index, MegatronBytes::kTypeAt, 5);
  patch<int64_t>(bytes.index, MegatronBytes::kPointersAt + 8, 24);
  constexpr int32_t kTooLarge = std::numeric_limits<int32_t>::max();
  EXPECT_THAT(read_all(bytes.parse()), ElementsAre(1, 2, kTooLarge, -4, 5));
  bytes.tokens = raw<uint8_t>({1, 2, 3, 4, 255});
  patch<uint8_t>(bytes.index, MegatronBytes::kTypeAt, 1);
  patch<int64_t>(bytes.index, MegatronBytes::kPointersAt + 8, 3);
  EXPECT_THAT(read_all(bytes.parse()), ElementsAre(1, 2, 3, 4, 255));
}

TEST(MegatronShard, DamageIsNamed) {
  const auto with = [](auto change) {
    MegatronBytes bytes;
    change(bytes);
    return bytes.error();
  };
  using M = MegatronBytes;
  EXPECT_THAT(with([](M& m) { m.index[0] = 'X'; }), AllOf(HasSubstr("a.idx"), HasSubstr("MMIDIDX")));
  EXPECT_THAT(with([](M& m) { patch<uint64_t>(m.index, M::kVersionAt, 2); }),
              HasSubstr("version 1 is wanted, got 2"));
  EXPECT_THAT(with([](M& m) { patch<uint8_t>(m.index, M::kTypeAt, 6); }), HasSubstr("got 6"));
  EXPECT_THAT(with([](M& m) { m.index.resize(20); }),
              AllOf(HasSubstr("number of sequences"), HasSubstr("truncated")));
  EXPECT_THAT(with([](M& m) { m.index.resize(m.index.size() - 1); }), HasSubstr("documents"));
  EXPECT_THAT(with([](M& m) { m.index += "abc"; }), HasSubstr("3 bytes too many"));
  EXPECT_THAT(with([](M& m) { patch<uint64_t>(m.index, M::kCountAt, uint64_t{1} << 62); }),
              HasSubstr("sequence lengths"));
  EXPECT_THAT(with([](M& m) { patch<int32_t>(m.index, M::kLengthsAt, -1); }),
              HasSubstr("sequence 0 has -1 tokens"));
  EXPECT_THAT(with([](M& m) { patch<int64_t>(m.index, M::kPointersAt + 8, 8); }), HasSubstr("sequence 1"));
  EXPECT_THAT(with([](M& m) { patch<int64_t>(m.index, M::kPointersAt + 8, -2); }), HasSubstr("byte -2"));
  EXPECT_THAT(with([](M& m) { patch<int64_t>(m.index, M::kDocumentsAt + 8, 3); }),
              HasSubstr("document entry 1 is 3"));
  EXPECT_THAT(with([](M& m) { patch<int64_t>(m.index, M::kDocumentsAt, 1); }),
              HasSubstr("document entry 0 is 1"));
  EXPECT_THAT(with([](M& m) { m.tokens.resize(9); }), AllOf(HasSubstr("sequence 1"), HasSubstr("9 bytes")));
}

TEST(TokenShardFile, LayoutIsToldByTheIndexBeside) {
  TemporaryFolder folder;
  const std::vector<int32_t> tokens = counting(0, 5000);
  write_shard(ShardFormat::megatron, folder / "m.bin", tokens);
  write_shard(ShardFormat::llmc, folder / "l.bin", tokens);
  EXPECT_THAT(read_all(open_token_shard(folder / "m.bin")), ElementsAreArray(tokens));
  EXPECT_THAT(read_all(open_token_shard(folder / "l.bin")), ElementsAreArray(tokens));
  std::filesystem::remove(folder / "m.idx");
  EXPECT_THAT(error_of([&] { open_token_shard(folder / "m.bin"); }), HasSubstr(".idx"));
  EXPECT_THAT(error_of([&] { open_token_shard(folder / "n.bin"); }), HasSubstr("no such file"));
}

TEST(ShardWriter, WithoutPublishNothingIsLeft) {
  TemporaryFolder folder;
  for (const ShardFormat format : {ShardFormat::llmc, ShardFormat::megatron}) {
    const auto writer = make_shard_writer(format, folder / "a.bin", 100);
    writer->append(counting(0, 10));
    writer->finish();
    EXPECT_FALSE(std::filesystem::is_empty(folder.path()));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace trireme
