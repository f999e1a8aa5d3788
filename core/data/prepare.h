// prepare: text to token shards. Reads in blocks, so memory does not grow with the input; tokenizes on
// several threads, with a result that does not depend on their number; leaves the folder as it was when it
// fails.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/data/dataset_info.h"
#include "core/data/shard_writer.h"
#include "core/data/tokenizer.h"

namespace trireme {

struct PrepareOptions {
  std::vector<std::filesystem::path> inputs;        // see TextInput
  std::filesystem::path out;                        // folder of the shards
  std::string tokenizer = kSentencepieceTokenizer;  // "bytes", "sentencepiece" (trained here) or a .model
  int64_t vocab = 8192;                             // of a tokenizer trained here
  double valid_fraction = 0.05;                     // of the input's bytes, from its end
  int64_t shard_tokens = 100'000'000;               // at most in one shard
  int threads = 0;                                  // 0: one a core
  ShardFormat format = ShardFormat::llmc;
  std::string text_field = "text";  // of JSON lines
  bool skip_bad = false;            // leave out lines that are not JSON objects with that field

  int64_t sample_bytes = int64_t{32} << 20;  // of input that a tokenizer is trained on, chosen at random
  int64_t block_bytes = int64_t{1} << 20;    // read and tokenized at once
  /// Told what is being done and how far it is; `total_bytes` is 0 for work without a measure.
  std::function<void(std::string_view what, int64_t done_bytes, int64_t total_bytes)> on_progress;
};

struct PrepareResult {
  bool up_to_date = false;  // nothing was done: the folder holds the result of these inputs and settings
  int64_t skipped_lines = 0;
  DatasetInfo info;
};

/// Writes train_000000.bin ..., valid_000000.bin ..., tokenizer.model and dataset.json into the folder.
/// Documents are followed by one end-of-text token. Where dataset.json shows that the same settings and
/// inputs made what is there, does nothing: an input is the same when path, size and time of change are, or
/// else its content (XXH3-64). ConfigError for wrong options, unusable inputs, and a folder with shards that
/// are not prepare's; IoError when the disk is full.
PrepareResult prepare(const PrepareOptions& options);

}  // namespace trireme
