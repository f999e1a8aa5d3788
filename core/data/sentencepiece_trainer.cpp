#include "core/data/sentencepiece_trainer.h"

#include <fmt/format.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/data/utf8.h"
#include "core/error.h"

namespace trireme {
namespace {

// sentencepiece skips longer ones. Cutting costs little: no piece is longer than 16 characters.
constexpr size_t kMaxSentenceBytes = 4096;
constexpr int kSilent = 4;  // above sentencepiece's highest level of log lines

/// The lines of the texts, cut where they are long or hold what sentencepiece can't learn from.
class Sentences : public sentencepiece::SentenceIterator {
 public:
  explicit Sentences(std::span<const std::string> texts) : texts_(texts) { Next(); }
  bool done() const override { return current_.empty(); }
  const std::string& value() const override { return current_; }
  sentencepiece::util::Status status() const override { return {}; }

  void Next() override {
    current_.clear();
    for (; text_ < texts_.size(); ++text_, at_ = 0) {
      const std::string& text = texts_[text_];
      while (at_ < text.size()) {
        const size_t length = text[at_] == '\n' || text[at_] == '\0' ? 0 : utf8_length(text, at_);
        const bool full = current_.size() + length > kMaxSentenceBytes;
        if ((length == 0 || full) && !current_.empty()) return;
        current_.append(text, at_, length);
        at_ += std::max<size_t>(length, 1);
      }
      if (!current_.empty()) return;
    }
  }

 private:
  std::span<const std::string> texts_;
  size_t text_ = 0, at_ = 0;
  std::string current_;
};

}  // namespace

std::string train_sentencepiece(std::span<const std::string> texts, int64_t vocab) {
  Sentences sentences(texts);
  if (sentences.done())
    throw ConfigError("tokenizer: there is no text to train on; give more text, or use the bytes tokenizer");
  const std::unordered_map<std::string, std::string> settings{
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocab)},
      {"byte_fallback", "true"},
      {"character_coverage", "0.9995"},
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"split_digits", "true"},
      {"max_sentence_length", std::to_string(kMaxSentenceBytes)},
      {"unk_id", "0"},
      {"eos_id", "1"},
      {"eos_piece", "<|endoftext|>"},
      {"bos_id", "-1"},
      {"pad_id", "-1"},
      {"minloglevel", std::to_string(kSilent)},
  };
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &sentences, &model);
  if (!status.ok())
    throw ConfigError(
        fmt::format("tokenizer: a vocabulary of {} can't be learnt from this text; choose another size with "
                    "--vocab, or use the bytes tokenizer. sentencepiece says: {}",
                    vocab, status.ToString()));
  return model;
}

}  // namespace trireme
