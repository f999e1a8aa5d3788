#include "launcher/sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/rng.h"

namespace trireme {
namespace {

/// The likeliest tokens first, cut to top-k.
std::vector<int32_t> rank_tokens(std::span<const float> logits, int64_t top_k) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto keep = top_k > 0 ? std::min<size_t>(static_cast<size_t>(top_k), order.size()) : order.size();
  const auto likelier = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(keep), order.end(), likelier);
  order.resize(keep);
  return order;
}

std::vector<float> to_host(Context& ctx, const Tensor& logits, int64_t count) {
  std::vector<float> host(static_cast<size_t>(count));
  ctx.backend->copy(host.data(), logits.raw(), host.size() * sizeof(float), *ctx.stream);
  ctx.stream->synchronize();
  return host;
}

}  // namespace

void check_sampling(const SamplingConfig& c) {
  if (c.tokens < 0) throw ConfigError(fmt::format("--tokens {} must not be negative", c.tokens));
  if (!(c.temperature >= 0.0)) throw ConfigError(fmt::format("--temperature {} must be 0 or more", c.temperature));
  if (c.top_k < 0) throw ConfigError(fmt::format("--top-k {} must be 0 (all) or more", c.top_k));
  if (!(c.top_p > 0.0 && c.top_p <= 1.0)) throw ConfigError(fmt::format("--top-p {} must lie in (0, 1]", c.top_p));
}

void check_prompt(std::span<const int32_t> prompt) {
  if (prompt.empty()) throw ConfigError("generate: the prompt has no tokens; give at least one");
}

int32_t draw_token(std::span<const float> logits, const SamplingConfig& config, float uniform) {
  if (config.temperature == 0.0) return rank_tokens(logits, 1)[0];
  const std::vector<int32_t> order = rank_tokens(logits, config.top_k);
  std::vector<double> weights(order.size());
  for (size_t i = 0; i < order.size(); ++i)
    weights[i] = std::exp((static_cast<double>(logits[order[i]]) - logits[order[0]]) / config.temperature);
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double kept = 0.0;
  size_t count = 0;
  while (count < order.size() && (count == 0 || kept < config.top_p * total)) kept += weights[count++];
  double rest = uniform * kept;
  for (size_t i = 0; i + 1 < count; ++i) {
    rest -= weights[i];
    if (rest < 0.0) return order[i];
  }
  return order[count - 1];
}

std::vector<int32_t> generate(Context& ctx, ParallelModel& model, std::span<const int32_t> prompt, const SamplingConfig& config,
                              const std::function<void(int32_t)>& on_token) {
  check_sampling(config);
  check_prompt(prompt);
  const int64_t context = model.model().config().context, true_vocab = model.model().config().true_vocab;
  const int64_t vocab = config.vocab > 0 ? std::min(config.vocab, true_vocab) : true_vocab;
  std::vector<int32_t> text(prompt.begin(), prompt.end());
  std::span<const int32_t> fresh = text;
  if (static_cast<int64_t>(text.size()) > context) fresh = fresh.last(static_cast<size_t>(context));
  const RandomStream random = make_stream(config.seed, hash_name("generate"));
  GenerationCache cache = model.model().make_cache(ctx, 1);
  for (int64_t i = 0; i < config.tokens; ++i) {
    if (cache.length + static_cast<int64_t>(fresh.size()) > context) {
      cache = {};  // its memory first
      cache = model.model().make_cache(ctx, 1);
      fresh = std::span<const int32_t>(text).last(static_cast<size_t>(std::max<int64_t>(1, context / 2)));
    }
    const Tensor logits = model.next_logits(ctx, fresh, 1, cache);
    const float uniform = to_uniform(random.block(static_cast<uint64_t>(i))[0]);
    const std::vector<float> scores = to_host(ctx, logits, vocab);
    model.check_peers();
    const int32_t token = draw_token(scores, config, uniform);
    if (token == config.stop) break;
    text.push_back(token);
    on_token(token);
    fresh = std::span<const int32_t>(text).last(1);
  }
  return text;
}

}  // namespace trireme
