// The shards of llm.c: a header of 256 int32 (magic, version, number of tokens, zeros), then the tokens.
// Version 1 holds uint16 tokens (GPT-2's vocabulary); version 7, with a magic of its own, uint32 (Llama 3's).
// https://github.com/karpathy/llm.c, dev/data/data_common.py
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "core/data/shard_writer.h"
#include "core/data/token_output.h"
#include "core/data/token_shard.h"

namespace trireme {

/// The shard in `bytes`, which must outlive it. ConfigError naming `name` when the header is not llm.c's or
/// does not fit the number of bytes.
TokenShard parse_llmc_shard(const std::string& name, std::span<const std::byte> bytes);

/// uint16 tokens up to a vocabulary of 65536, uint32 above.
class LlmcShardWriter : public ShardWriter {
 public:
  LlmcShardWriter(const std::filesystem::path& bin_file, int64_t vocab);
  void append(std::span<const int32_t> tokens) override;
  void end_document() override {}  // the layout does not tell documents apart
  void finish() override;
  std::vector<PartialFile*> files() override { return {&file_}; }

 private:
  PartialFile file_;
  bool wide_;
  TokenOutput tokens_;
};

}  // namespace trireme
