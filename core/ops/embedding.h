// embedding: rows of a table by token, plus rows of a second table by position. The table may be a part of the rows of
// a larger one, of which other ranks have the rest.
#pragma once

#include <algorithm>

#include "core/op.h"

namespace trireme {

/// The positions of each sample's tokens: the t-th stands at first + t, or from the half-th on at second + t - half.
struct TokenPositions {
  int64_t first = 0;
  int64_t half = -1;  // -1: all tokens are one run
  int64_t second = 0;

  int64_t at(int64_t t) const { return half < 0 || t < half ? first + t : second + t - half; }
  /// One past the largest position of `tokens` tokens.
  int64_t end(int64_t tokens) const {
    return half < 0 || half >= tokens ? first + tokens : std::max(first + half, second + tokens - half);
  }
};

/// Which rows of the whole table w is. Tokens of other rows give zeros, and no gradient.
struct EmbeddingPart {
  int64_t first_row = 0;
  int64_t vocab = 0;          // rows of the whole table; 0: w is the whole
  bool add_positions = true;  // else another rank adds them to the sum that y is a part of; their gradient is the same
};

/// y[b, t] = w[tokens[b, t]] (+ positions[at(t)], when defined). Throws as embedding() does.
struct EmbeddingForward {
  using Fn = void(Context&, const Tensor& tokens, const Tensor& w, const Tensor& positions, const TokenPositions& at,
                  const EmbeddingPart& part, Tensor& y);
};
/// dw[tokens[b, t] - first_row] += dy[b, t]. dw f32 [V, C].
struct EmbeddingBackwardTokens {
  using Fn = void(Context&, const Tensor& tokens, const Tensor& dy, const EmbeddingPart& part, Tensor& dw);
};
/// dpositions[at(t)] += sum over b of dy[b, t]. dy [B*T, C] with T = `tokens_per_sample`.
struct EmbeddingBackwardPositions {
  using Fn = void(Context&, const Tensor& dy, int64_t tokens_per_sample, const TokenPositions& at, Tensor& dpositions);
};

/// y[b, t] = w[tokens[b, t]] (+ positions[at(t)]). tokens i32 [B, T], w [V, C], positions [T', C] or null -> [B*T, C].
/// A token outside the vocabulary is a ConfigError that names it.
Tensor embedding(Context& ctx, const Tensor& tokens, Parameter& w, Parameter* positions, const TokenPositions& at = {},
                 const EmbeddingPart& part = {});

}  // namespace trireme
