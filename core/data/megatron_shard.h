// Megatron-LM's indexed data sets: a .bin file of nothing but tokens, and an .idx file beside it:
//   "MMIDIDX\0\0", version u64 = 1, token type u8, number of sequences u64, number of document entries u64,
//   tokens of each sequence int32[], its first byte in the .bin int64[],
//   documents int64[]: 0, then the sequence that each document ends before;
//   multimodal data sets have one int8 a sequence after that, which is not read.
// https://github.com/NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "core/data/shard_writer.h"
#include "core/data/token_output.h"
#include "core/data/token_shard.h"

namespace trireme {

/// The sequences in the order of the index, one after the other. `tokens` must outlive the shard, `index`
/// need not. ConfigError naming the file when the index is damaged or does not fit the tokens.
TokenShard parse_megatron_shard(const std::string& index_name, std::span<const std::byte> index,
                                const std::string& tokens_name, std::span<const std::byte> tokens);

/// uint16 tokens up to a vocabulary of 65536, int32 above. A document is one sequence, or several when it is
/// longer than 2^30 tokens.
class MegatronShardWriter : public ShardWriter {
 public:
  MegatronShardWriter(const std::filesystem::path& bin_file, int64_t vocab);
  void append(std::span<const int32_t> tokens) override;
  void end_document() override;
  void finish() override;
  std::vector<PartialFile*> files() override { return {&tokens_file_, &index_file_}; }

 private:
  void end_sequence();

  PartialFile tokens_file_;
  PartialFile index_file_;
  TokenType type_;
  TokenOutput tokens_;
  int64_t sequence_begin_ = 0;  // token that the unfinished sequence starts at
  std::vector<int32_t> sequence_tokens_;
  std::vector<int64_t> document_ends_{0};  // in sequences
};

}  // namespace trireme
