// Sampling text from a model: temperature, top-k, top-p, with a key/value cache.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "models/parallel_model.h"

namespace trireme {

struct SamplingConfig {
  int64_t tokens = 200;      // how many to make at most
  double temperature = 1.0;  // 0: always the likeliest
  int64_t top_k = 0;         // keep the k likeliest; 0: all
  double top_p = 1.0;        // keep the likeliest that together have this probability
  uint64_t seed = 1;
  int32_t stop = -1;         // ends the text when drawn; -1: never
  int64_t vocab = 0;         // tokens that may be drawn: those below; 0: all of the model's
};

/// Throws ConfigError when a value lies outside its range.
void check_sampling(const SamplingConfig& config);
/// Throws ConfigError when it has no tokens.
void check_prompt(std::span<const int32_t> prompt);

/// Draws a token from `logits` with `uniform` in [0, 1): a pure function. Ties go to the lower token.
int32_t draw_token(std::span<const float> logits, const SamplingConfig& config, float uniform);

/// Continues `prompt` (not empty); `on_token` sees each new token at once. Draw i is a function of (seed, i) and
/// the logits alone. A text longer than the model's context goes on from its last half.
/// Collective over the model's ranks, which all see the same tokens.
std::vector<int32_t> generate(Context& ctx, ParallelModel& model, std::span<const int32_t> prompt, const SamplingConfig& config,
                              const std::function<void(int32_t)>& on_token);

}  // namespace trireme
