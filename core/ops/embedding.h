// embedding: rows of a table by token, plus rows of a second table by position. A rank may hold a part of the
// table, and a part of each sample's tokens.
#pragma once

#include <limits>

#include "core/op.h"

namespace trireme {

/// Where a sample's tokens stand: token t at first + t while t < half, else at second + (t - half). A number
/// is one run.
struct TokenPositions {
  constexpr TokenPositions(int64_t first_position = 0) : first(first_position) {}
  constexpr TokenPositions(int64_t first_position, int64_t tokens_of_first, int64_t second_position)
      : first(first_position), half(tokens_of_first), second(second_position) {}
  constexpr int64_t at(int64_t t) const { return t < half ? first + t : second + (t - half); }

  int64_t first = 0;
  int64_t half = std::numeric_limits<int64_t>::max();  // tokens of the first run
  int64_t second = 0;
};

/// Which tokens the rows of w are: all, or `first` and those behind it, of `vocab` in all ranks' rows.
struct TableRows {
  int64_t first = 0;
  int64_t vocab = 0;  // 0: w is the whole table

  bool is_part() const { return vocab > 0; }
  int64_t vocab_of(const Tensor& w) const { return is_part() ? vocab : w.dim(0); }
};

/// y[b, t] = w[tokens[b, t] - rows.first], or zeros where w has no such row (+ positions[at(t)], when
/// defined). Throws as embedding() does.
struct EmbeddingForward {
  using Fn = void(Context&, const Tensor& tokens, const Tensor& w, TableRows rows, const Tensor& positions,
                  TokenPositions at, Tensor& y);
};
/// dw[tokens[b, t] - rows.first] += dy[b, t], where dw has that row. dw f32 [n, C].
struct EmbeddingBackwardTokens {
  using Fn = void(Context&, const Tensor& tokens, const Tensor& dy, TableRows rows, Tensor& dw);
};
/// dpositions[at(t)] += sum over b of dy[b, t]. dy [B*T, C] with T = `tokens_per_sample`.
struct EmbeddingBackwardPositions {
  using Fn = void(Context&, const Tensor& dy, int64_t tokens_per_sample, TokenPositions at,
                  Tensor& dpositions);
};

/// y[b, t] = w[tokens[b, t]] (+ positions[at(t)]). tokens i32 [B, T], w [V, C], positions [T', C] or null ->
/// [B*T, C]. A token outside [0, V) is a ConfigError that names it, as are positions that the table does not
/// have.
///
/// Where w is a part of the table (Shoeybi et al., Megatron-LM, 2019), y is to be summed over the ranks that
/// hold the other parts: tokens of theirs give rows of zeros here, and no gradient; [0, rows.vocab) is what
/// tokens must lie in. One of those ranks adds the positions. Without `add_positions` y lacks them, but they
/// get their gradient all the same: dy is that of the sum, the same on all of these ranks.
Tensor embedding(Context& ctx, const Tensor& tokens, Parameter& w, Parameter* positions,
                 TokenPositions at = {}, TableRows rows = {}, bool add_positions = true);

}  // namespace trireme
