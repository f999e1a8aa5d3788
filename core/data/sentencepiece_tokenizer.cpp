#include "core/data/sentencepiece_tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <algorithm>
#include <array>
#include <unordered_map>

#include "core/data/utf8.h"
#include "core/error.h"

namespace trireme {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581, which stands for a space in pieces
constexpr size_t kChunkBytes = 4096;                     // given at once to models that are used as they are
constexpr size_t kMaxCachedWordBytes = 64;
constexpr size_t kMaxCachedWords = 1 << 18;

std::string with_spaces(std::string_view piece) {
  std::string text;
  while (!piece.empty()) {
    const bool space = piece.starts_with(kSpaceMark);
    text.push_back(space ? ' ' : piece.front());
    piece.remove_prefix(space ? kSpaceMark.size() : 1);
  }
  return text;
}

/// Whether some piece goes on after a space, as in "of▁the": then text can't be encoded word by word.
bool crosses_words(const std::string& piece_text) {
  const size_t first_letter = piece_text.find_first_not_of(' ');
  return first_letter != std::string::npos && piece_text.find(' ', first_letter) != std::string::npos;
}

class SentencepieceTokenizer : public Tokenizer {
 public:
  explicit SentencepieceTokenizer(const std::filesystem::path& model_file);

  std::string name() const override { return kSentencepieceTokenizer; }
  int64_t vocab_size() const override { return static_cast<int64_t>(texts_.size()); }
  int32_t end_of_text() const override { return processor_.eos_id(); }
  std::unique_ptr<Encoder> make_encoder() const override;
  std::string decode(std::span<const int32_t> ids) const override;

  /// What sentencepiece makes of `text` as a whole.
  std::vector<int> encode_directly(std::string_view text) const;
  /// Bytes of the character at `at` when sentencepiece keeps it; 0 when its first byte must become a byte
  /// piece.
  size_t kept_length(std::string_view text, size_t at) const;
  int32_t byte_id(char byte) const { return byte_ids_[static_cast<uint8_t>(byte)]; }
  bool is_lossless() const { return lossless_; }
  bool goes_by_word() const { return by_word_; }

 private:
  void read_pieces(const std::filesystem::path& model_file);
  bool finds_out_lossless() const;
  bool has_piece(std::string_view piece) const { return !processor_.IsUnknown(processor_.PieceToId(piece)); }

  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::string> texts_;  // of each piece
  std::array<int32_t, 256> byte_ids_{};
  bool by_word_ = true;
  bool keeps_newline_ = false;  // "\n" is a piece of its own, not a byte
  bool keeps_space_ = false;
  bool lossless_ = false;
};

SentencepieceTokenizer::SentencepieceTokenizer(const std::filesystem::path& model_file) {
  const auto status = processor_.Load(model_file.string());
  if (!status.ok())
    throw ConfigError(
        fmt::format("{}: not a sentencepiece model ({}): wanted a .model that spm_train or `trireme prepare` "
                    "wrote",
                    model_file.string(), status.ToString()));
  if (processor_.eos_id() < 0)
    throw ConfigError(
        fmt::format("{}: the model has no end-of-text token: train it with an eos_id, or let `trireme "
                    "prepare` train one",
                    model_file.string()));
  keeps_newline_ = has_piece("\n");
  keeps_space_ = has_piece(kSpaceMark);
  read_pieces(model_file);
  lossless_ = finds_out_lossless();
}

void SentencepieceTokenizer::read_pieces(const std::filesystem::path& model_file) {
  byte_ids_.fill(-1);
  for (int id = 0; id < processor_.GetPieceSize(); ++id) {
    const std::string& piece = processor_.IdToPiece(id);
    if (processor_.IsByte(id)) {  // "<0x41>"
      const auto byte = static_cast<uint8_t>(std::stoi(piece.substr(3, 2), nullptr, 16));
      byte_ids_[byte] = id;
      texts_.emplace_back(1, static_cast<char>(byte));
    } else if (processor_.IsControl(id) || processor_.IsUnknown(id)) {
      texts_.emplace_back();
    } else {
      texts_.push_back(with_spaces(piece));
      by_word_ = by_word_ && !crosses_words(texts_.back());
    }
  }
  if (texts_.empty()) throw ConfigError(fmt::format("{}: the model has no pieces", model_file.string()));
}

bool SentencepieceTokenizer::finds_out_lossless() const {
  for (const int32_t id : byte_ids_)
    if (id < 0) return false;
  if (!keeps_space_) return true;  // spaces never reach sentencepiece
  const std::string probe =
      "a  b\tC\xEF\xBC\xA1 \xC3\xA9 ";  // two spaces; a wide A and é, which NFKC would change
  for (const std::string& text : {probe, " " + probe}) {
    std::string decoded;
    for (const int id : encode_directly(text)) decoded += texts_[static_cast<size_t>(id)];
    if (decoded != text) return false;
  }
  return true;
}

std::vector<int> SentencepieceTokenizer::encode_directly(std::string_view text) const {
  std::vector<int> ids;
  const auto status = processor_.Encode(text, &ids);
  TRIREME_ASSERT(status.ok(), "sentencepiece can't encode: " + status.ToString());
  return ids;
}

size_t SentencepieceTokenizer::kept_length(std::string_view text, size_t at) const {
  const char c = text[at];
  if (c == '\n') return keeps_newline_;
  if (c == ' ') return keeps_space_;
  if (c == '\0') return 0;
  if (text.substr(at, kSpaceMark.size()) == kSpaceMark) return 0;
  return utf8_length(text, at);
}

std::string SentencepieceTokenizer::decode(std::span<const int32_t> ids) const {
  for (const int32_t id : ids)
    if (id < 0 || id >= vocab_size())
      throw ConfigError(
          fmt::format("token {} is not one of the tokenizer's {}: was the data made with another tokenizer?",
                      id, vocab_size()));
  std::string text;
  if (!lossless_) {
    const auto status = processor_.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
    TRIREME_ASSERT(status.ok(), "sentencepiece can't decode: " + status.ToString());
    return text;
  }
  for (const int32_t id : ids) text += texts_[static_cast<size_t>(id)];
  return text;
}

/// For models that are used as they are: some lines at a time, because sentencepiece's time grows faster than
/// the length of its input.
class PlainEncoder : public Encoder {
 public:
  explicit PlainEncoder(const SentencepieceTokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void append(std::string_view text, std::vector<int32_t>& ids) override {
    while (!text.empty()) {
      size_t length = text.size() > kChunkBytes ? text.find('\n', kChunkBytes) : std::string_view::npos;
      length = length == std::string_view::npos ? text.size() : length + 1;
      const std::vector<int> chunk = tokenizer_.encode_directly(text.substr(0, length));
      ids.insert(ids.end(), chunk.begin(), chunk.end());
      text.remove_prefix(length);
    }
  }

 private:
  const SentencepieceTokenizer& tokenizer_;
};

/// Cuts text into runs that sentencepiece keeps, and those into words: a space, if there is one, goes with
/// the word after it. No piece crosses such a cut, so nothing changes by it, and most words were seen before.
class LosslessEncoder : public Encoder {
 public:
  explicit LosslessEncoder(const SentencepieceTokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void append(std::string_view text, std::vector<int32_t>& ids) override {
    size_t begin = 0;  // of the current word
    for (size_t at = 0; at < text.size();) {
      const size_t length = tokenizer_.kept_length(text, at);
      const bool new_word = tokenizer_.goes_by_word() && at > begin && text[at] == ' ' && text[at - 1] != ' ';
      if (length == 0 || new_word) {
        append_word(text.substr(begin, at - begin), ids);
        begin = at;
      }
      if (length == 0) {
        ids.push_back(tokenizer_.byte_id(text[at]));
        begin = at + 1;
      }
      at += std::max<size_t>(length, 1);
    }
    append_word(text.substr(begin), ids);
  }

 private:
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };

  void append_word(std::string_view word, std::vector<int32_t>& ids) {
    if (word.empty()) return;
    auto known = words_.find(word);
    if (known == words_.end()) {
      std::vector<int> encoded = tokenizer_.encode_directly(word);
      if (word.size() > kMaxCachedWordBytes) {
        ids.insert(ids.end(), encoded.begin(), encoded.end());
        return;
      }
      if (words_.size() == kMaxCachedWords) words_.clear();
      known = words_.emplace(word, std::move(encoded)).first;
    }
    ids.insert(ids.end(), known->second.begin(), known->second.end());
  }

  const SentencepieceTokenizer& tokenizer_;
  std::unordered_map<std::string, std::vector<int>, Hash, std::equal_to<>> words_;
};

std::unique_ptr<Encoder> SentencepieceTokenizer::make_encoder() const {
  if (lossless_) return std::make_unique<LosslessEncoder>(*this);
  return std::make_unique<PlainEncoder>(*this);
}

}  // namespace

std::shared_ptr<const Tokenizer> load_sentencepiece(const std::filesystem::path& model_file) {
  return std::make_shared<SentencepieceTokenizer>(model_file);
}

}  // namespace trireme
