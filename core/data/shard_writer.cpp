#include "core/data/shard_writer.h"

#include <fmt/format.h>

#include "core/data/llmc_shard.h"
#include "core/data/megatron_shard.h"
#include "core/error.h"

namespace trireme {

std::string_view name_of(ShardFormat format) {
  return format == ShardFormat::llmc ? "llmc" : "megatron";
}

ShardFormat parse_shard_format(std::string_view name) {
  if (name == "llmc") return ShardFormat::llmc;
  if (name == "megatron") return ShardFormat::megatron;
  throw ConfigError(fmt::format("unknown shard format '{}': llmc and megatron can be written", name));
}

void ShardWriter::publish() {
  for (PartialFile* file : files()) file->publish();
}

std::unique_ptr<ShardWriter> make_shard_writer(ShardFormat format, const std::filesystem::path& bin_file,
                                               int64_t vocab) {
  if (format == ShardFormat::megatron) return std::make_unique<MegatronShardWriter>(bin_file, vocab);
  return std::make_unique<LlmcShardWriter>(bin_file, vocab);
}

}  // namespace trireme
