// The tokenizer of a sentencepiece model.
#pragma once

#include <filesystem>
#include <memory>

#include "core/data/tokenizer.h"

namespace trireme {

/// Loads a model. Where the model keeps spaces and has a piece for each byte (as those trained here do), text
/// is given back byte for byte: what sentencepiece would change (newlines, U+2581, invalid UTF-8) becomes
/// byte pieces. Other models (that normalise, or add a space in front) are used as they are, some lines at a
/// time. ConfigError when the file is no model, or the model has no end-of-text (</s>) token.
std::shared_ptr<const Tokenizer> load_sentencepiece(const std::filesystem::path& model_file);

}  // namespace trireme
