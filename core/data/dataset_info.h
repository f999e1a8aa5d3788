// DatasetInfo: dataset.json, what `trireme prepare` writes beside the shards: how they were made, from what,
// with which tokenizer, and how many bytes of text their tokens stand for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace trireme {

inline constexpr const char* kDatasetInfoFile = "dataset.json";
inline constexpr const char* kTokenizerFile = "tokenizer.model";

struct ShardFile {
  std::string name;
  int64_t bytes = 0;
};

struct SplitInfo {
  int64_t tokens = 0;  // with one end-of-text a document
  int64_t documents = 0;
  int64_t text_bytes = 0;
  std::vector<ShardFile> files;
};

struct InputInfo {
  std::string path;
  int64_t bytes = 0;
  int64_t modified_ns = 0;
  std::string xxh3;  // of the content, XXH3-64
};

struct DatasetInfo {
  bool complete = false;       // false while shards are being replaced
  std::string tokenizer;       // "bytes", "sentencepiece"
  std::string tokenizer_file;  // in the same folder; "" for bytes
  int64_t vocab = 0;
  int64_t end_of_text = 0;
  SplitInfo train, valid;
  std::vector<InputInfo> inputs;
  std::string settings;  // JSON: what else the shards depend on
};

/// Nothing when the folder has none. ConfigError when it is damaged.
std::optional<DatasetInfo> read_dataset_info(const std::filesystem::path& folder);

/// Replaces the file at once, durably. IoError when it can't.
void write_dataset_info(const std::filesystem::path& folder, const DatasetInfo& info);

/// What make_tokenizer() needs for the data of a folder, whose info it is.
std::string tokenizer_in(const std::filesystem::path& folder, const DatasetInfo& info);

/// What make_tokenizer() needs for data of a glob: "bytes", or the path of the model beside the shards.
/// ConfigError when no dataset.json tells.
std::string tokenizer_beside(const std::string& glob);

}  // namespace trireme
