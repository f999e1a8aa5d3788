// The `model` section of an experiment file.
#pragma once

#include <cstdint>
#include <string>

namespace trireme {

struct ModelConfig {
  std::string preset;        // gpt2-124m | -350m | -774m | -1558m | tiny | char; sets what follows unless given
  std::string kind = "gpt";
  int64_t layers = 6;
  int64_t heads = 6;
  int64_t kv_heads = 0;      // 0: as many as heads
  int64_t width = 384;       // C
  int64_t ffn = 0;           // hidden width of the MLP; 0: 4 * width
  int64_t context = 256;     // the most tokens of a sample
  int64_t vocab = 0;         // rows of the embedding; 0: the tokenizer's, rounded up to a multiple of 64
  int64_t true_vocab = 0;    // tokens that exist; the rows after them are padding, never predicted. 0: vocab
  double dropout = 0.0;
  bool bias = true;
  bool tied = true;          // one table for embedding and classifier
  std::string recompute = "none";  // none | selective | full
};

}  // namespace trireme
