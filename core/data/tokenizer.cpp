#include "core/data/tokenizer.h"

#include <fmt/format.h>

#include "core/data/sentencepiece_tokenizer.h"
#include "core/error.h"

namespace trireme {
namespace {

class BytesEncoder : public Encoder {
 public:
  void append(std::string_view text, std::vector<int32_t>& ids) override {
    ids.reserve(ids.size() + text.size());
    for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
  }
};

/// One id a byte, and one more for the end of text.
class BytesTokenizer : public Tokenizer {
 public:
  std::string name() const override { return kBytesTokenizer; }
  int64_t vocab_size() const override { return kEndOfText + 1; }
  int32_t end_of_text() const override { return kEndOfText; }
  std::unique_ptr<Encoder> make_encoder() const override { return std::make_unique<BytesEncoder>(); }

  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (id < 0 || id > kEndOfText)
        throw ConfigError(fmt::format(
            "token {} is not one of the bytes tokenizer's {}: was the data made with another tokenizer?", id,
            vocab_size()));
      if (id != kEndOfText) text.push_back(static_cast<char>(id));
    }
    return text;
  }

 private:
  static constexpr int32_t kEndOfText = 256;
};

}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  make_encoder()->append(text, ids);
  return ids;
}

std::shared_ptr<const Tokenizer> make_tokenizer(const std::string& name_or_model) {
  if (name_or_model == kBytesTokenizer) return std::make_shared<BytesTokenizer>();
  if (!std::filesystem::is_regular_file(name_or_model))
    throw ConfigError(
        fmt::format("there is no tokenizer '{}': wanted '{}' or the path of a sentencepiece .model",
                    name_or_model, kBytesTokenizer));
  return load_sentencepiece(name_or_model);
}

}  // namespace trireme
