#include "core/data/dataset.h"

#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace trireme {

TokenDataset::TokenDataset(std::vector<TokenShard> shards) : shards_(std::move(shards)), first_token_{0} {
  for (const TokenShard& shard : shards_) first_token_.push_back(first_token_.back() + shard.num_tokens());
}

size_t TokenDataset::shard_of(int64_t token) const {
  return static_cast<size_t>(std::ranges::upper_bound(first_token_, token) - first_token_.begin()) - 1;
}

void TokenDataset::read(int64_t begin, std::span<int32_t> out) const {
  TRIREME_ASSERT(begin >= 0 && static_cast<int64_t>(out.size()) <= num_tokens() - begin,
                 fmt::format("tokens [{}, {}) of {}", begin, begin + out.size(), num_tokens()));
  for (size_t i = shard_of(begin); !out.empty(); ++i) {
    const int64_t left = first_token_[i + 1] - begin;
    const auto part = out.first(std::min(out.size(), static_cast<size_t>(left)));
    shards_[i].read(begin - first_token_[i], part);
    begin += static_cast<int64_t>(part.size());
    out = out.subspan(part.size());
  }
}

void TokenDataset::read_sample(int64_t sample, int64_t vocab, std::span<int32_t> tokens,
                               std::span<int32_t> targets) const {
  TRIREME_ASSERT(tokens.size() == targets.size() && !tokens.empty(), "tokens and targets are of one length");
  const auto sequence = static_cast<int64_t>(tokens.size());
  const int64_t begin = sample * sequence;
  read(begin, tokens);
  std::ranges::copy(tokens.subspan(1), targets.begin());
  read(begin + sequence, targets.last(1));
  const auto above = [vocab](int32_t token) { return token < 0 || token >= vocab; };
  if (const auto found = std::ranges::find_if(tokens, above); found != tokens.end())
    fail_above_vocabulary(begin + (found - tokens.begin()), *found, vocab);
  if (above(targets.back())) fail_above_vocabulary(begin + sequence, targets.back(), vocab);
}

void TokenDataset::fail_above_vocabulary(int64_t token, int32_t value, int64_t vocab) const {
  const size_t i = shard_of(token);
  throw ConfigError(
      fmt::format("{}: token {} is {}, which is not in the model's vocabulary of {}: set model.vocab to the "
                  "vocabulary that the data was made with, or make the data again with `trireme prepare`",
                  shards_[i].name(), token - first_token_[i], value, vocab));
}

std::vector<std::filesystem::path> find_token_files(const std::string& glob) {
  glob_t found{};
  const int status = ::glob(glob.c_str(), GLOB_NOSORT | GLOB_BRACE | GLOB_TILDE, nullptr, &found);
  std::vector<std::filesystem::path> files;
  for (size_t i = 0; status == 0 && i < found.gl_pathc; ++i) {
    const std::filesystem::path file = found.gl_pathv[i];
    if (file.extension() != ".idx" && !std::filesystem::is_directory(file)) files.push_back(file);
  }
  ::globfree(&found);
  if (files.empty()) {
    const std::filesystem::path pattern(glob);
    const std::filesystem::path folder = pattern.has_parent_path() ? pattern.parent_path() : ".";
    throw ConfigError(fmt::format(
        "no token shard is called '{}' in the folder {} ({}): make shards with `trireme prepare "
        "TEXT --out {}`",
        pattern.filename().string(), folder.string(),
        std::filesystem::exists(folder) ? "which exists" : "which does not exist", folder.string()));
  }
  std::ranges::sort(files);
  return files;
}

std::shared_ptr<const TokenDataset> open_dataset(const std::string& glob) {
  std::vector<TokenShard> shards;
  for (const std::filesystem::path& file : find_token_files(glob)) shards.push_back(open_token_shard(file));
  return std::make_shared<const TokenDataset>(std::move(shards));
}

std::vector<WeightedDataset> open_datasets(std::span<const DataSource> sources) {
  std::vector<WeightedDataset> datasets;
  for (const DataSource& source : sources)
    datasets.push_back({open_dataset(source.files), source.weight, source.files});
  return datasets;
}

}  // namespace trireme
