#include "launcher/data_info.h"

#include "core/data/dataset_info.h"
#include "core/data/tokenizer.h"

namespace trireme {

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
  // Shards that `trireme prepare` did not make have no dataset.json: then nothing is known of their tokenizer.
  if (!read_dataset_info(std::filesystem::path(glob).parent_path())) return {};
  return read_tokenizer_info(tokenizer_beside(glob));
}

DataInfo read_data_info(const DataConfig& config) {
  if (!config.tokenizer.empty() || config.train.empty()) return read_tokenizer_info(config.tokenizer);
  return read_glob_info(config.train.front().files);
}

}  // namespace trireme
