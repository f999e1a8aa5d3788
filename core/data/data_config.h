// The `data` section of an experiment file.
#pragma once

#include <string>
#include <vector>

namespace trireme {

/// One data set of a blend: the files of a glob, taken with a weight.
struct DataSource {
  std::string files;    // a glob of .bin shards (llm.c), or of Megatron-LM .bin files with an .idx beside each
  double weight = 1.0;  // relative share of the samples
};

struct DataConfig {
  std::vector<DataSource> train;
  std::vector<DataSource> valid;
  bool shuffle = true;
  int prefetch = 2;       // batches read ahead
  std::string tokenizer;  // "bytes", or a sentencepiece .model; "" looks beside the shards
};

}  // namespace trireme
