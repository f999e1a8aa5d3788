// The kernels of embedding. Backward adds rows in the order of the tokens, each thread a range of columns: no
// two threads write the same element, and the sums do not depend on how many there are.
#include "core/ops/embedding.h"

#include <fmt/format.h>

#include "core/backend/cpu/dispatch.h"
#include "core/backend/cpu/kernels.h"
#include "core/backend/cpu/parallel.h"
#include "core/backend/cpu/simd.h"

namespace trireme::cpu {
namespace {

void check_tokens(const Tensor& tokens, int64_t vocab) {
  const auto values = tokens.span<const int32_t>();
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] >= 0 && values[i] < vocab) [[likely]]
      continue;
    const auto length = static_cast<size_t>(tokens.dim(1));
    throw ConfigError(fmt::format(
        "embedding: token {} at sample {}, position {} of the micro-batch is outside the "
        "vocabulary of {} tokens (0 to {}); use the tokenizer that the data was made with, or set "
        "model.vocab to its size",
        values[i], i / length, i % length, vocab, vocab - 1));
  }
}

/// The sum of two rows of a table, of which either may be null: zeros.
template <class T>
void write_row(const T* row, const T* position, int64_t width, T* out) {
  if (!row || !position) {
    const T* only = row ? row : position;
    if (only)
      std::copy(only, only + width, out);
    else
      std::fill(out, out + width, T(0.0f));
    return;
  }
#pragma omp simd
  for (int64_t c = 0; c < width; ++c)
    assign(out[c], static_cast<float>(row[c]) + static_cast<float>(position[c]));
}

void embedding_forward(Context& ctx, const Tensor& tokens, const Tensor& w, TableRows rows,
                       const Tensor& positions, TokenPositions at, Tensor& y) {
  check_tokens(tokens, rows.vocab_of(w));
  const int64_t length = tokens.dim(1), width = w.dim(1), held = w.dim(0);
  const int32_t* ids = tokens.data<int32_t>();
  dispatch_compute("embedding", w.dtype(), [&](auto type) {
    using T = decltype(type);
    const T *pw = w.data<T>(), *ppositions = positions.defined() ? positions.data<T>() : nullptr;
    T* py = y.data<T>();
    for_rows(ctx, tokens.numel(), width, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t row = ids[n] - rows.first;
        write_row(row >= 0 && row < held ? pw + row * width : nullptr,
                  ppositions ? ppositions + at.at(n % length) * width : nullptr, width, py + n * width);
      }
    });
  });
}

/// sum[row_of(n)] += dy[n] for n = 0, 1, ..., where it has that row; in columns [c0, c1) by each thread.
template <class RowOf>
void scatter_add(Context& ctx, const Tensor& dy, Tensor& sum, const RowOf& row_of) {
  const int64_t rows = dy.dim(0), width = dy.dim(1), held = sum.dim(0);
  const int count = num_ranges(ctx, rows * width, kMinParallelElements);
  float* out = sum.data<float>();
  dispatch_compute("embedding backward", dy.dtype(), [&](auto type) {
    const auto* pdy = dy.data<decltype(type)>();
    parallel_for(count, [&](int i) {
      const Range columns = range_of(i, count, width, 16);
      for (int64_t n = 0; n < rows; ++n) {
        const int64_t row = row_of(n);
        if (row < 0 || row >= held) continue;
        float* to = out + row * width;
        const auto* from = pdy + n * width;
#pragma omp simd
        for (int64_t c = columns.begin; c < columns.end; ++c) to[c] += static_cast<float>(from[c]);
      }
    });
  });
}

void embedding_backward_tokens(Context& ctx, const Tensor& tokens, const Tensor& dy, TableRows rows,
                               Tensor& dw) {
  const int32_t* ids = tokens.data<int32_t>();
  scatter_add(ctx, dy, dw, [=](int64_t n) { return ids[n] - rows.first; });
}

void embedding_backward_positions(Context& ctx, const Tensor& dy, int64_t tokens_per_sample,
                                  TokenPositions at, Tensor& dpositions) {
  scatter_add(ctx, dy, dpositions, [=](int64_t n) { return at.at(n % tokens_per_sample); });
}

}  // namespace

void add_embedding_kernels(Backend& backend) {
  backend.add_kernel<EmbeddingForward>(&embedding_forward);
  backend.add_kernel<EmbeddingBackwardTokens>(&embedding_backward_tokens);
  backend.add_kernel<EmbeddingBackwardPositions>(&embedding_backward_positions);
}

}  // namespace trireme::cpu
