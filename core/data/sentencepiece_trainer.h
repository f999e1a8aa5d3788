// Trains a sentencepiece model: byte-pair encoding (Sennrich et al., "Neural machine translation of rare
// words with subword units", ACL 2016) with a piece for each byte, and no normalisation, so no text is lost.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace trireme {

/// The bytes of a .model file with `vocab` pieces. <|endoftext|> is its end-of-text token. ConfigError when
/// the texts are too few for `vocab`, or `vocab` is too small for their characters; both say which numbers
/// work.
std::string train_sentencepiece(std::span<const std::string> texts, int64_t vocab);

}  // namespace trireme
