// ShardWriter: writes one shard in either layout. Nothing has the shard's name before publish().
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/data/partial_file.h"

namespace trireme {

enum class ShardFormat : uint8_t { llmc, megatron };

std::string_view name_of(ShardFormat format);           // "llmc", "megatron"
ShardFormat parse_shard_format(std::string_view name);  // ConfigError when unknown

/// append() and end_document() as often as needed, then finish(), then publish(). A writer that is destroyed
/// before publish() leaves nothing behind. Refusals of the operating system are IoErrors.
class ShardWriter {
 public:
  virtual ~ShardWriter() = default;
  virtual void append(std::span<const int32_t> tokens) = 0;
  virtual void end_document() = 0;
  virtual void finish() = 0;                          // all bytes are on the disk
  virtual std::vector<PartialFile*> files() = 0;      // the .bin first
  int64_t num_tokens() const { return num_tokens_; }  // appended so far
  void publish();                                     // renames; replaces files of the same names

 protected:
  int64_t num_tokens_ = 0;
};

/// Tokens are below `vocab`, which decides how wide they are stored.
std::unique_ptr<ShardWriter> make_shard_writer(ShardFormat format, const std::filesystem::path& bin_file,
                                               int64_t vocab);

}  // namespace trireme
