#include "core/data/blended_dataset.h"

#include <fmt/format.h>

#include <utility>

#include "core/error.h"

namespace trireme {
namespace {

std::vector<double> weights_of(std::span<const WeightedDataset> sources) {
  if (sources.empty())
    throw ConfigError("data: no files are given; set data.train to a glob of token shards");
  std::vector<double> weights;
  for (const WeightedDataset& source : sources) weights.push_back(source.weight);
  return weights;
}

}  // namespace

void check_lengths(std::span<const WeightedDataset> sources, int64_t sequence) {
  if (sequence < 1) throw ConfigError(fmt::format("batch.sequence = {}: must be 1 or more", sequence));
  for (const WeightedDataset& source : sources)
    if (source.dataset->num_samples(sequence) < 1)
      throw ConfigError(
          fmt::format("data: {} holds {} tokens, but a sample takes {} (batch.sequence + 1): use a shorter "
                      "batch.sequence or more text",
                      source.name, source.dataset->num_tokens(), sequence + 1));
}

BlendedDataset::BlendedDataset(std::vector<WeightedDataset> sources, int64_t sequence, int64_t vocab,
                               bool shuffle, uint64_t seed)
    : sources_(std::move(sources)), sequence_(sequence), vocab_(vocab), blend_(weights_of(sources_)) {
  check_lengths(sources_, sequence);
  for (size_t s = 0; s < sources_.size(); ++s)
    orders_.emplace_back(sources_[s].dataset->num_samples(sequence), shuffle, seed, s);
}

void BlendedDataset::read(int64_t draw, std::span<int32_t> tokens, std::span<int32_t> targets) const {
  TRIREME_ASSERT(static_cast<int64_t>(tokens.size()) == sequence_, "a sample of another length");
  const Blend::Draw drawn = blend_(draw);
  const int64_t sample = orders_[drawn.source].sample_of(drawn.index);
  sources_[drawn.source].dataset->read_sample(sample, vocab_, tokens, targets);
}

}  // namespace trireme
