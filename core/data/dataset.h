// TokenDataset: the shards of a glob as one stream of tokens, and samples of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/data/data_config.h"
#include "core/data/token_shard.h"

namespace trireme {

/// Sample i of length T is tokens [i*T, i*T + T) of the stream, its targets one further. Thread-safe.
class TokenDataset {
 public:
  /// The shards in the order of the stream.
  explicit TokenDataset(std::vector<TokenShard> shards);

  int64_t num_tokens() const { return first_token_.back(); }
  int64_t num_samples(int64_t sequence) const {
    return num_tokens() == 0 ? 0 : (num_tokens() - 1) / sequence;
  }
  const std::vector<TokenShard>& shards() const { return shards_; }

  /// Fills `out` with the tokens from `begin` on, across the borders of files.
  void read(int64_t begin, std::span<int32_t> out) const;

  /// Fills `tokens` and `targets`, both of length T. ConfigError naming file and position of a token that is
  /// not in [0, vocab).
  void read_sample(int64_t sample, int64_t vocab, std::span<int32_t> tokens,
                   std::span<int32_t> targets) const;

 private:
  size_t shard_of(int64_t token) const;
  [[noreturn]] void fail_above_vocabulary(int64_t token, int32_t value, int64_t vocab) const;

  std::vector<TokenShard> shards_;
  std::vector<int64_t> first_token_;  // of each shard; one more entry: the end
};

/// The token files that a glob matches, sorted by name; Megatron-LM's .idx files are left out. ConfigError
/// saying which folder was looked in when there are none.
std::vector<std::filesystem::path> find_token_files(const std::string& glob);

/// Maps the files of a glob.
std::shared_ptr<const TokenDataset> open_dataset(const std::string& glob);

struct WeightedDataset {
  std::shared_ptr<const TokenDataset> dataset;
  double weight = 1.0;
  std::string name;  // its glob, for messages
};

/// Maps the sources of a config section.
std::vector<WeightedDataset> open_datasets(std::span<const DataSource> sources);

}  // namespace trireme
