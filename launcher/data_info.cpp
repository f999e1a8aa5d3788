#include "launcher/data_info.h"

#include <fmt/format.h>

#include <filesystem>
#include <optional>
#include <set>

#include "core/checkpoint/checksum.h"
#include "core/data/dataset.h"
#include "core/data/dataset_info.h"
#include "core/data/tokenizer.h"
#include "core/error.h"
#include "core/files.h"

namespace trireme {
namespace {

/// What tells tokenizers apart: the name, or the content of the model's file.
std::string identity_of(const std::string& tokenizer) {
  if (!std::filesystem::is_regular_file(tokenizer)) return tokenizer;
  return checksum_text(xxh3(MappedFile(tokenizer).bytes()));
}

}  // namespace

bool is_same_tokenizer(const std::string& a, const std::string& b) {
  return identity_of(a) == identity_of(b);
}

DataInfo read_tokenizer_info(const std::string& name) {
  DataInfo info;
  if (name.empty()) return info;
  const auto tokenizer = make_tokenizer(name);
  info.tokenizer = name;
  info.vocab = tokenizer->vocab_size();
  info.token_bytes.reserve(static_cast<size_t>(info.vocab));
  for (int32_t token = 0; token < info.vocab; ++token)
    info.token_bytes.push_back(static_cast<int32_t>(tokenizer->decode(std::span(&token, 1)).size()));
  return info;
}

DataInfo read_glob_info(const std::string& glob) {
  std::set<std::filesystem::path> folders;
  for (const std::filesystem::path& file : find_token_files(glob)) folders.insert(file.parent_path());
  std::string tokenizer;
  for (const std::filesystem::path& folder : folders) {
    const std::optional<DatasetInfo> info = read_dataset_info(folder);
    if (!info) continue;  // shards that `trireme prepare` did not make: nothing is known of their tokenizer
    const std::string other = tokenizer_in(folder, *info);
    if (tokenizer.empty()) tokenizer = other;
    if (!is_same_tokenizer(tokenizer, other))
      throw ConfigError(fmt::format("data: shards of {} were made with different tokenizers ({} and {}); prepare them with one",
                                    glob, tokenizer, other));
  }
  return read_tokenizer_info(tokenizer);
}

DataInfo read_data_info(const DataConfig& config) {
  if (!config.tokenizer.empty()) return read_tokenizer_info(config.tokenizer);
  DataInfo info;
  std::string first;  // the source that `info` is from
  for (const auto* sources : {&config.train, &config.valid})
    for (const DataSource& source : *sources) {
      DataInfo other = read_glob_info(source.files);
      if (other.tokenizer.empty()) continue;
      if (info.tokenizer.empty()) {
        info = std::move(other);
        first = source.files;
      } else if (!is_same_tokenizer(other.tokenizer, info.tokenizer)) {
        throw ConfigError(fmt::format("data: {} and {} were made with different tokenizers ({} and {}); prepare them with one",
                                      first, source.files, info.tokenizer, other.tokenizer));
      }
    }
  return info;
}

}  // namespace trireme
