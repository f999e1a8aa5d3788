#include "core/data/split_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

namespace trireme {

SplitWriter::SplitWriter(std::filesystem::path folder, std::string name, const ShardLayout& layout)
    : folder_(std::move(folder)), name_(std::move(name)), layout_(layout) {}

ShardWriter& SplitWriter::shard_with_room() {
  if (shards_.empty() || shards_.back()->num_tokens() == layout_.max_tokens) {
    if (!shards_.empty()) shards_.back()->finish();
    const auto file = folder_ / fmt::format("{}_{:06}.bin", name_, shards_.size());
    shards_.push_back(make_shard_writer(layout_.format, file, layout_.vocab));
  }
  return *shards_.back();
}

void SplitWriter::append(std::span<const int32_t> tokens) {
  num_tokens_ += static_cast<int64_t>(tokens.size());
  while (!tokens.empty()) {
    ShardWriter& shard = shard_with_room();
    const auto room = static_cast<size_t>(layout_.max_tokens - shard.num_tokens());
    const auto part = tokens.first(std::min(tokens.size(), room));
    shard.append(part);
    tokens = tokens.subspan(part.size());
  }
}

void SplitWriter::end_document() {
  if (!shards_.empty()) shards_.back()->end_document();
}

void SplitWriter::finish() {
  if (!shards_.empty()) shards_.back()->finish();
}

void SplitWriter::publish() {
  for (const auto& shard : shards_) shard->publish();
}

std::vector<ShardFile> SplitWriter::files() {
  std::vector<ShardFile> files;
  for (const auto& shard : shards_)
    for (PartialFile* file : shard->files())
      files.push_back({file->path().filename().string(), static_cast<int64_t>(file->output().size_bytes())});
  return files;
}

bool is_shard_name(const std::string& file_name) {
  constexpr size_t kPrefixSize = std::string_view("train_").size();
  const std::filesystem::path path(file_name);
  const std::string stem = path.stem().string(), extension = path.extension().string();
  const bool prefixed = stem.starts_with("train_") || stem.starts_with("valid_");
  return prefixed && stem.size() >= kPrefixSize + 6 &&
         stem.find_first_not_of("0123456789", kPrefixSize) == std::string::npos &&
         (extension == ".bin" || extension == ".idx");
}

}  // namespace trireme
