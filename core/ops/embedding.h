// embedding: rows of a table by token, plus rows of a second table by position.
#pragma once

#include "core/op.h"

namespace trireme {

/// y[b, t] = w[tokens[b, t]] (+ positions[first_position + t], when defined). Throws as embedding() does.
struct EmbeddingForward {
  using Fn = void(Context&, const Tensor& tokens, const Tensor& w, const Tensor& positions,
                  int64_t first_position, Tensor& y);
};
/// dw[tokens[b, t]] += dy[b, t]. dw f32 [V, C].
struct EmbeddingBackwardTokens {
  using Fn = void(Context&, const Tensor& tokens, const Tensor& dy, Tensor& dw);
};
/// dpositions[first_position + t] += sum over b of dy[b, t]. dy [B*T, C] with T = `tokens_per_sample`.
struct EmbeddingBackwardPositions {
  using Fn = void(Context&, const Tensor& dy, int64_t tokens_per_sample, int64_t first_position,
                  Tensor& dpositions);
};

/// y[b, t] = w[tokens[b, t]] (+ positions[first_position + t]). tokens i32 [B, T], w [V, C],
/// positions [T', C] or null -> [B*T, C]. A token outside [0, V) is a ConfigError that names it.
Tensor embedding(Context& ctx, const Tensor& tokens, Parameter& w, Parameter* positions,
                 int64_t first_position = 0);

}  // namespace trireme
