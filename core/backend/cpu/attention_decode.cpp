// Attention with a cache of keys and values, for generation: appends, then attends. Many new tokens (a
// prompt) go through the tiles of the forward pass; a few go row by row, where reading the cache once is all
// the cost.
#include <omp.h>

#include <cmath>

#include "core/backend/cpu/attention_forward.h"
#include "core/backend/cpu/dispatch.h"
#include "core/ops/attention.h"

namespace trireme::cpu {
namespace {

constexpr int64_t kRowsAhead = 32;      // to prefetch
constexpr int64_t kMaxTokensByRow = 4;  // above, tiles are faster

struct RowScratch {
  RowScratch(ScratchCarver carver, int64_t group, int64_t num_keys, int64_t width)
      : scores(carver.take(group, round_up(num_keys, kLanes))),
        queries(carver.take(group, width)),
        out(carver.take(group, width)),
        num_floats(carver.num_floats()) {}

  Tile scores, queries, out;  // one row for each head of queries that shares the keys
  int64_t num_floats;
};

template <class T>
void append(const Tensor& qkv, const AttentionShape& shape, const KvCache& cache) {
  const int64_t capacity = cache.keys.dim(1), width = shape.kv_heads * shape.head_dim;
  for (int64_t b = 0; b < shape.batch; ++b)
    for (int64_t t = 0; t < shape.tokens; ++t) {
      const T* keys =
          qkv.data<T>() + (b * shape.tokens + t) * shape.qkv_width() + shape.heads * shape.head_dim;
      const int64_t to = (b * capacity + cache.length + t) * width;
      std::copy_n(keys, width, cache.keys.data<T>() + to);
      std::copy_n(keys + width, width, cache.values.data<T>() + to);
    }
}

template <class T>
float dot(const float* a, const T* b, int64_t count) {
  Vec products{};
  int64_t d = 0;
  for (; d + kLanes <= count; d += kLanes) products += load(a + d) * load(b + d);
  float total = sum(products);
  for (; d < count; ++d) total += a[d] * static_cast<float>(b[d]);
  return total;
}

/// to = sum of weights[k] * rows[k] over `count` rows, for kVectors vectors from element d on.
template <int kVectors, class T>
void weighted_sum_at(int64_t d, const float* weights, HeadRows<const T> rows, int64_t count, float* to) {
  Vec sums[kVectors] = {};
  for (int64_t k = 0; k < count; ++k) {
    if (k + kRowsAhead < count) prefetch_rows(rows, k + kRowsAhead, k + kRowsAhead + 1);
    for (int v = 0; v < kVectors; ++v) sums[v] += weights[k] * load(rows.row(k) + d + v * kLanes);
  }
  for (int v = 0; v < kVectors; ++v) store(to + d + v * kLanes, sums[v]);
}

template <class T>
void weighted_sum(const float* weights, HeadRows<const T> rows, int64_t count, float* to) {
  int64_t d = 0;
  for (; d + 4 * kLanes <= rows.width; d += 4 * kLanes) weighted_sum_at<4>(d, weights, rows, count, to);
  for (; d + kLanes <= rows.width; d += kLanes) weighted_sum_at<1>(d, weights, rows, count, to);
  for (; d < rows.width; ++d) {
    to[d] = 0.0f;
    for (int64_t k = 0; k < count; ++k) to[d] += weights[k] * static_cast<float>(rows.row(k)[d]);
  }
}

/// 2^(factor * scores) over their sum, for scores [count]; behind them is room up to whole vectors.
void softmax(float* scores, int64_t count, float factor) {
  const int64_t padded = round_up(count, kLanes);
  std::fill(scores + count, scores + padded, -std::numeric_limits<float>::infinity());
  Vec maxima = load(scores);
  for (int64_t i = kLanes; i < padded; i += kLanes) maxima = max(load(scores + i), maxima);
  float maximum = maxima[0];
  for (int i = 1; i < kLanes; ++i) maximum = std::max(maximum, maxima[i]);
  Vec total{};
  for (int64_t i = 0; i < padded; i += kLanes) {
    const Vec p = exp2((load(scores + i) - maximum) * factor);
    store(scores + i, p);
    total += p;
  }
  const float scale = 1.0f / sum(total);
  for (int64_t i = 0; i < padded; i += kLanes) store(scores + i, load(scores + i) * scale);
}

/// The heads of queries that share key-value head `g`, of all new tokens of sample `b`.
template <class T>
void attend_by_row(const AttentionOperands<T>& x, int64_t b, int64_t g, const RowScratch& s) {
  const int64_t dim = x.head_dim, group = x.heads / x.kv_heads, offset = b * x.key_batch_stride + g * dim;
  const HeadRows<const T> keys{x.keys + offset, x.key_stride, dim},
      values{x.values + offset, x.key_stride, dim};
  for (int64_t t = 0; t < x.num_queries; ++t) {
    const int64_t num_keys = x.first_position + t + 1, h = g * group;
    const HeadRows<const T> queries{x.queries + b * x.query_batch_stride + t * x.query_stride + h * dim, dim,
                                    dim};
    pack_rows(queries, group, group, dim, s.queries);
    for (int64_t k = 0; k < num_keys; ++k) {
      if (k + kRowsAhead < num_keys) prefetch_rows(keys, k + kRowsAhead, k + kRowsAhead + 1);
      for (int64_t i = 0; i < group; ++i) s.scores.row(i)[k] = dot(s.queries.row(i), keys.row(k), dim);
    }
    for (int64_t i = 0; i < group; ++i) softmax(s.scores.row(i), num_keys, score_factor(dim));
    for (int64_t i = 0; i < group; ++i) weighted_sum(s.scores.row(i), values, num_keys, s.out.row(i));
    unpack_rows(s.out, group, 1.0f,
                HeadRows<T>{x.out + ((b * x.num_queries + t) * x.heads + h) * dim, dim, dim});
  }
}

template <class T>
void attend_by_rows(Context& ctx, const AttentionOperands<T>& x) {
  const int num_threads = ctx.backend->num_threads();
  const int64_t group = x.heads / x.kv_heads, num_tasks = x.batch * x.kv_heads;
  const int64_t scratch_floats = RowScratch(ScratchCarver(), group, x.num_keys, x.head_dim).num_floats;
  const Tensor scratch = ctx.empty({num_threads, scratch_floats}, DType::f32, MemoryClass::workspace);
  float* scratch_data = scratch.data<float>();
#pragma omp parallel for schedule(static) num_threads(num_threads)
  for (int64_t task = 0; task < num_tasks; ++task) {
    const ScratchCarver carver(scratch_data + omp_get_thread_num() * scratch_floats);
    attend_by_row(x, task / x.kv_heads, task % x.kv_heads, RowScratch(carver, group, x.num_keys, x.head_dim));
  }
}

void attention_cached(Context& ctx, const Tensor& qkv, const AttentionShape& shape, const KvCache& cache,
                      Tensor& out) {
  dispatch_compute("attention", qkv.dtype(), [&]<class T>(T) {
    append<T>(qkv, shape, cache);
    const int64_t stride = shape.kv_heads * shape.head_dim;
    const AttentionOperands<T> x{.queries = qkv.data<T>(),
                                 .query_batch_stride = shape.tokens * shape.qkv_width(),
                                 .query_stride = shape.qkv_width(),
                                 .keys = cache.keys.data<T>(),
                                 .values = cache.values.data<T>(),
                                 .key_batch_stride = cache.keys.dim(1) * stride,
                                 .key_stride = stride,
                                 .out = out.data<T>(),
                                 .batch = shape.batch,
                                 .heads = shape.heads,
                                 .kv_heads = shape.kv_heads,
                                 .head_dim = shape.head_dim,
                                 .num_queries = shape.tokens,
                                 .num_keys = cache.length + shape.tokens,
                                 .first_position = cache.length,
                                 .causal = true};
    shape.tokens <= kMaxTokensByRow ? attend_by_rows(ctx, x) : attend(ctx, x);
  });
}

}  // namespace

void add_attention_decode(Backend& backend) {
  backend.add_kernel<AttentionCachedKernel>(&attention_cached);
}

}  // namespace trireme::cpu
