// Tokenizers: text comes back byte for byte, whatever it holds; and training fails with words.
#include "core/data/tokenizer.h"

#include <sentencepiece_trainer.h>

#include <unordered_map>

#include "core/data/sentencepiece_tokenizer.h"
#include "core/data/sentencepiece_trainer.h"
#include "core/data/utf8.h"
#include "core/rng.h"
#include "tests/core/data_fixture.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Lt;
using ::testing::SizeIs;

/// English-like text of a small language.
std::string sample_text(size_t words, uint64_t seed = 1) {
  constexpr std::string_view kSyllables[] = {"the", "of",  "and", "he",  "ship",
                                             "row", "ing", "ed",  "sea", "man"};
  const RandomStream random = make_stream(seed, 0);
  std::string text;
  for (size_t i = 0; i < words; ++i) {
    const auto bits = random.block(i);
    text += kSyllables[bits[0] % 10];
    if (bits[1] % 2) text += kSyllables[bits[2] % 10];
    text += bits[3] % 12 == 0 ? ".\n" : bits[3] % 12 == 1 ? ", " : " ";
  }
  return text;
}

/// Random text over few characters, so that every meeting of spaces, line ends and damaged UTF-8 is met.
std::string wild_text(uint64_t seed) {
  constexpr std::string_view kParts[] = {" ",
                                         "  ",
                                         "\n",
                                         "\r\n",
                                         "\t",
                                         "the",
                                         "sea",
                                         "\xFF",
                                         "\xE2\x96\x81",
                                         "\xE2\x96",
                                         "é",
                                         "\xF0\x9F\x9A\xA3",
                                         "1066",
                                         "\xED\xA0\x80",  // a surrogate
                                         "\xC0\x80",      // an overlong zero
                                         "\xEF\xBF\xBD",  // U+FFFD itself
                                         "<0x41>",
                                         "<unk>",
                                         "<|endoftext|>",
                                         "q"};
  const RandomStream random = make_stream(seed, 1);
  std::string text;
  for (uint64_t i = 0; i < 60; ++i) text += kParts[random.block(i)[0] % std::size(kParts)];
  text.push_back('\0');
  return text;
}

class SentencepieceTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    write_file(*folder_ / "a.model", train_sentencepiece(std::vector{sample_text(3000)}, 340));
    tokenizer_ = make_tokenizer((*folder_ / "a.model").string());
  }
  static void TearDownTestSuite() {
    tokenizer_.reset();
    delete folder_;
  }
  static inline TemporaryFolder* folder_ = nullptr;
  static inline std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST(BytesTokenizer, OneIdAByte) {
  const auto tokenizer = make_tokenizer("bytes");
  EXPECT_EQ(tokenizer->vocab_size(), 257);
  EXPECT_EQ(tokenizer->end_of_text(), 256);
  EXPECT_EQ(tokenizer->name(), "bytes");
  EXPECT_THAT(tokenizer->encode("a\n\xFF"), ElementsAre('a', '\n', 255));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{'a', 256, 255}), "a\xFF");
  EXPECT_THAT(error_of([&] { tokenizer->decode(std::vector<int32_t>{257}); }), HasSubstr("257"));
}

TEST_F(SentencepieceTest, GivesAnyTextBack) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::string text = wild_text(seed);
    ASSERT_EQ(tokenizer_->decode(tokenizer_->encode(text)), text);
  }
  EXPECT_EQ(tokenizer_->decode(tokenizer_->encode("")), "");
}

TEST_F(SentencepieceTest, DecodingIsPiecewise) {
  const std::string text = wild_text(7) + sample_text(20);
  std::string decoded;
  for (const int32_t id : tokenizer_->encode(text)) decoded += tokenizer_->decode(std::span(&id, 1));
  EXPECT_EQ(decoded, text);
}

TEST_F(SentencepieceTest, LearnsPieces) {
  EXPECT_EQ(tokenizer_->vocab_size(), 340);
  const std::string text = sample_text(500, /*seed=*/2);
  EXPECT_THAT(tokenizer_->encode(text), SizeIs(Lt(text.size() / 3)));
}

TEST_F(SentencepieceTest, CuttingAtLinesOrWordsChangesNothing) {
  const std::string text = sample_text(200, /*seed=*/3) + wild_text(3);
  const std::vector<int32_t> whole = tokenizer_->encode(text);
  const auto encoder = tokenizer_->make_encoder();
  std::vector<int32_t> parts;
  size_t begin = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    const bool cut = text[i - 1] == '\n' || (text[i] == ' ' && text[i - 1] != ' ');
    if (!cut) continue;
    encoder->append(text.substr(begin, i - begin), parts);
    begin = i;
  }
  encoder->append(text.substr(begin), parts);
  EXPECT_EQ(parts, whole);
}

TEST_F(SentencepieceTest, EndOfTextIsNotInText) {
  const std::vector<int32_t> ids = tokenizer_->encode("<|endoftext|></s>");
  EXPECT_EQ(std::ranges::count(ids, tokenizer_->end_of_text()), 0);
  EXPECT_EQ(tokenizer_->decode(std::vector{tokenizer_->end_of_text()}), "");
  EXPECT_THAT(error_of([&] { tokenizer_->decode(std::vector<int32_t>{340}); }), HasSubstr("340"));
  EXPECT_THAT(error_of([&] { tokenizer_->decode(std::vector<int32_t>{-1}); }), HasSubstr("-1"));
}

TEST_F(SentencepieceTest, TextWithoutSpacesTrainsATokenizerForAll) {
  write_file(*folder_ / "b.model", train_sentencepiece(std::vector<std::string>{"abab\nbaba\nabba\n"}, 262));
  const auto tokenizer = make_tokenizer((*folder_ / "b.model").string());
  const std::string text = " a  b " + wild_text(1);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
}

TEST_F(SentencepieceTest, TrainingIsSilentAndRepeatable) {
  ::testing::internal::CaptureStderr();
  ::testing::internal::CaptureStdout();
  const std::string again = train_sentencepiece(std::vector{sample_text(3000)}, 340);
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(again, read_file(*folder_ / "a.model"));
}

TEST(SentencepieceTrainer, WrongSizesAreExplained) {
  const std::vector<std::string> texts{sample_text(50)};
  EXPECT_THAT(error_of([&] { train_sentencepiece(texts, 100); }),
              AllOf(HasSubstr("100"), HasSubstr("--vocab")));
  EXPECT_THAT(error_of([&] { train_sentencepiece(texts, 100000); }),
              AllOf(HasSubstr("100000"), HasSubstr("<=")));
  EXPECT_THAT(error_of([&] { train_sentencepiece(std::vector<std::string>{"\n"}, 300); }),
              HasSubstr("no text"));
}

/// A model that somebody else trained, with settings of their own.
std::string foreign_model(std::unordered_map<std::string, std::string> settings) {
  struct Lines : sentencepiece::SentenceIterator {
    std::vector<std::string> lines;
    size_t at = 0;
    bool done() const override { return at == lines.size(); }
    void Next() override { ++at; }
    const std::string& value() const override { return lines[at]; }
    sentencepiece::util::Status status() const override { return {}; }
  } lines;
  for (uint64_t i = 0; i < 300; ++i) lines.lines.push_back(sample_text(8, i));
  settings.insert({{"model_type", "bpe"}, {"minloglevel", "4"}});
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &lines, &model);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return model;
}

TEST(ForeignModel, ThatNormalisesIsUsedAsItIs) {
  TemporaryFolder folder;
  write_file(folder / "a.model", foreign_model({{"vocab_size", "120"}}));
  const auto tokenizer = make_tokenizer(folder / "a.model");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("the  sea, rowing")), "the sea, rowing");
  const std::string text = sample_text(3000);  // longer than what is given to sentencepiece at once
  std::string expected = text;
  std::ranges::replace(expected, '\n', ' ');
  std::string decoded = tokenizer->decode(tokenizer->encode(text));
  EXPECT_EQ(decoded.substr(0, 3000), expected.substr(0, 3000));
}

TEST(ForeignModel, WhosePiecesCrossWordsIsNotCutIntoWords) {
  TemporaryFolder folder;
  write_file(folder / "a.model", foreign_model({{"vocab_size", "400"},
                                                {"split_by_whitespace", "false"},
                                                {"byte_fallback", "true"},
                                                {"normalization_rule_name", "identity"},
                                                {"add_dummy_prefix", "false"},
                                                {"remove_extra_whitespaces", "false"}}));
  sentencepiece::SentencePieceProcessor direct;
  ASSERT_TRUE(direct.Load((folder / "a.model").string()).ok());
  const auto tokenizer = make_tokenizer(folder / "a.model");
  const std::string line = "the sea of the man and the sea";
  std::vector<int> expected;
  ASSERT_TRUE(direct.Encode(line, &expected).ok());
  EXPECT_EQ(tokenizer->encode(line), expected);
  size_t by_word = 0;
  for (const std::string_view word : {"the", " sea", " of", " the", " man", " and", " the", " sea"})
    by_word += tokenizer->encode(word).size();
  EXPECT_LT(expected.size(), by_word);
  const std::string text = wild_text(5);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
}

TEST(ForeignModel, WithoutEndOfTextIsRefused) {
  TemporaryFolder folder;
  write_file(folder / "a.model", foreign_model({{"vocab_size", "120"}, {"eos_id", "-1"}}));
  EXPECT_THAT(error_of([&] { make_tokenizer(folder / "a.model"); }), HasSubstr("end-of-text"));
}

TEST(MakeTokenizer, WhatIsNoTokenizerIsNamed) {
  TemporaryFolder folder;
  write_file(folder / "a.model", "not a model");
  EXPECT_THAT(error_of([&] { make_tokenizer(folder / "a.model"); }),
              AllOf(HasSubstr("a.model"), HasSubstr("sentencepiece")));
  EXPECT_THAT(error_of([] { make_tokenizer("byte"); }), AllOf(HasSubstr("'byte'"), HasSubstr("'bytes'")));
}

TEST(Utf8, LengthOfValidCharactersOnly) {
  EXPECT_EQ(utf8_length("a", 0), 1u);
  EXPECT_EQ(utf8_length("xé", 1), 2u);
  EXPECT_EQ(utf8_length("\xE2\x96\x81", 0), 3u);
  EXPECT_EQ(utf8_length("\xF0\x9F\x9A\xA3", 0), 4u);
  for (const std::string bad : {"\x80", "\xC1\xBF", "\xC3",
                                "\xC3"
                                "a",
                                "\xE0\x9F\xBF", "\xED\xA0\x80", "\xE2\x96", "\xF0\x8F\xBF\xBF",
                                "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"})
    EXPECT_EQ(utf8_length(bad, 0), 0u) << ::testing::PrintToString(bad);
}

}  // namespace
}  // namespace trireme
