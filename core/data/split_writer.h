// SplitWriter: the tokens of one split (train or valid) as numbered shards of bounded size.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/data/dataset_info.h"
#include "core/data/shard_writer.h"

namespace trireme {

struct ShardLayout {
  ShardFormat format = ShardFormat::llmc;
  int64_t max_tokens = 0;  // of a shard
  int64_t vocab = 0;
};

/// Writes NAME_000000.bin, NAME_000001.bin, ... None has its name before publish(); without it none is left.
class SplitWriter {
 public:
  SplitWriter(std::filesystem::path folder, std::string name, const ShardLayout& layout);

  void append(std::span<const int32_t> tokens);
  void end_document();
  void finish();   // all bytes are on the disk
  void publish();  // after finish()

  std::vector<ShardFile> files();  // after finish()
  int64_t num_tokens() const { return num_tokens_; }

 private:
  ShardWriter& shard_with_room();

  std::filesystem::path folder_;
  std::string name_;
  ShardLayout layout_;
  std::vector<std::unique_ptr<ShardWriter>> shards_;  // all but the last are finished
  int64_t num_tokens_ = 0;
};

/// Whether a file is called as a SplitWriter of trireme's would call it: train_000000.bin, valid_000012.idx.
bool is_shard_name(const std::string& file_name);

}  // namespace trireme
