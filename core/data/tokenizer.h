// Tokenizer: text to token ids and back. Bytes, or a sentencepiece model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

inline constexpr const char* kBytesTokenizer = "bytes";
inline constexpr const char* kSentencepieceTokenizer = "sentencepiece";

/// Encodes for one thread, and may remember what it encoded to be faster.
class Encoder {
 public:
  virtual ~Encoder() = default;
  /// Appends the ids of `text`.
  virtual void append(std::string_view text, std::vector<int32_t>& ids) = 0;
};

/// Thread-safe. The bytes tokenizer and models that are trained here give any text back byte for byte, valid
/// UTF-8 or not: decode(encode(x)) == x and decode(a + b) == decode(a) + decode(b).
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string name() const = 0;  // "bytes", "sentencepiece"
  virtual int64_t vocab_size() const = 0;
  virtual int32_t end_of_text() const = 0;  // comes after each document; decodes to nothing
  virtual std::unique_ptr<Encoder> make_encoder() const = 0;
  /// ConfigError when an id is not in the vocabulary.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;

  std::vector<int32_t> encode(std::string_view text) const;
};

/// "bytes", or the path of a sentencepiece model. ConfigError when there is no such model or it can't be
/// used.
std::shared_ptr<const Tokenizer> make_tokenizer(const std::string& name_or_model);

}  // namespace trireme
