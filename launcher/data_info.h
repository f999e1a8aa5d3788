// What the tokenizer of a run's data tells: the vocabulary, and how many bytes of text each token stands for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/data/data_config.h"

namespace trireme {

struct DataInfo {
  std::string tokenizer;             // "bytes", or the path of a model; "" when it isn't known
  int64_t vocab = 0;                 // tokens that exist; 0 when it isn't known
  std::vector<int32_t> token_bytes;  // [vocab]
};

/// Whether two names, as data.tokenizer has them, mean one tokenizer: models are compared by their content.
bool is_same_tokenizer(const std::string& a, const std::string& b);

/// From the tokenizer `name`, as data.tokenizer has it; "" gives an empty DataInfo.
DataInfo read_tokenizer_info(const std::string& name);
/// From the tokenizer beside the shards of a glob; an empty DataInfo when there is none. ConfigError when its folders have
/// different ones.
DataInfo read_glob_info(const std::string& glob);
/// From data.tokenizer, or else the tokenizer that lies beside the data. ConfigError when two sources have different ones.
DataInfo read_data_info(const DataConfig& config);

}  // namespace trireme
