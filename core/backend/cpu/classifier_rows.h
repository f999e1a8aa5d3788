// What the classifiers share: the check of targets, how rows are cut into chunks, and softmax, loss and
// gradient of one row of logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/backend/cpu/simd.h"
#include "core/tensor.h"

namespace trireme::cpu {

inline constexpr int64_t kMaxClassifierBytes = int64_t{64} << 20;  // of logits at a time

/// ConfigError that names a target outside [-1, vocab).
void check_targets(const Tensor& targets, int64_t vocab);

/// Rows of a chunk: at most `max_rows`, and all chunks of one size.
inline int64_t chunk_rows_of(int64_t rows, int64_t max_rows) {
  const int64_t num_chunks = (rows + max_rows - 1) / max_rows;
  return num_chunks == 0 ? 0 : (rows + num_chunks - 1) / num_chunks;
}

/// sum of e^(l - max) over the row, and max.
struct Normalizer {
  float max, sum;
};

inline Normalizer normalizer_of(const float* logits, int64_t vocab) {
  float max = logits[0];
#pragma omp simd reduction(max : max)
  for (int64_t v = 0; v < vocab; ++v) max = logits[v] > max ? logits[v] : max;
  const auto term = [max](FloatLanes l) { return exp_lanes(l - max); };
  return {max, sum_over(vocab, term, logits)};
}

/// -log softmax of a logit.
inline double loss_of(Normalizer n, float logit) {
  return std::log(static_cast<double>(n.sum)) + static_cast<double>(n.max - logit);
}

/// dlogits = factor (softmax(logits) - onehot(target)), zeros from `vocab` on; target -1: it is not of this
/// row. May be in place for float.
template <class T>
void gradient_row(const float* logits, Normalizer n, int64_t target, float factor, T* dlogits, int64_t vocab,
                  int64_t width) {
  const float target_grad = target < 0 ? 0.0f : factor * (std::exp(logits[target] - n.max) / n.sum - 1.0f);
  const float scale = factor / n.sum;
  const auto gradient = [&](FloatLanes l) { return exp_lanes(l - n.max) * scale; };
  transform_lanes(0, vocab, gradient, dlogits, logits);
  std::fill(dlogits + vocab, dlogits + width, T(0.0f));
  if (target >= 0) assign(dlogits[target], target_grad);
}

}  // namespace trireme::cpu
