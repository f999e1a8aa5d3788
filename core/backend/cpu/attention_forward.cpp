// Attention forward: each task takes a block of one head's queries through all tiles of keys, with the
// softmax kept up as the tiles come ("online": Milakov & Gimelshein, 2018; Dao, FlashAttention-2, 2023).
#include "core/backend/cpu/attention_forward.h"

#include <omp.h>

#include <cmath>

#include "core/backend/cpu/dispatch.h"
#include "core/ops/attention.h"

namespace trireme::cpu {
namespace {

constexpr int64_t kQueryBlock = 128;
static_assert(kQueryBlock % kColumnBlock == 0);

struct ForwardScratch {
  ForwardScratch(ScratchCarver carver, int64_t width)  // width: head_dim, padded to whole vectors
      : rows(carver.take(kQueryBlock, width)),
        queries_t(carver.take(width, kQueryBlock)),
        out_t(carver.take(width, kQueryBlock)),
        keys(carver.take(kKeyTile, width)),
        values(carver.take(kKeyTile, width)),
        scores(carver.take(kKeyTile, kColumnBlock)),
        maxima(carver.take(1, kQueryBlock)),
        sums(carver.take(1, kQueryBlock)),
        num_floats(carver.num_floats()) {}

  Tile rows;       // queries, and later their outputs, as [queries, width]
  Tile queries_t;  // [width, queries]
  Tile out_t;      // [width, queries], not yet divided by the sums
  Tile keys, values;
  Tile scores;        // [keys, queries of one column block]
  Tile maxima, sums;  // of each query's scores and their exponentials
  int64_t num_floats;
};

/// Brings the running maxima and sums up to date with a tile of scores, turns the scores into probabilities
/// (times the sum still unknown), and rescales what out_t holds so far.
void online_softmax(const ForwardScratch& s, int64_t rows, int64_t column, int64_t width) {
  for (int v = 0; v < 2; ++v) {
    float* scores = s.scores.data + v * kLanes;
    float* maximum_at = s.maxima.data + column + v * kLanes;
    float* sum_at = s.sums.data + column + v * kLanes;
    const Vec old_maximum = load(maximum_at);
    Vec maximum = old_maximum;
    for (int64_t r = 0; r < rows; ++r) maximum = max(load(scores + r * kColumnBlock), maximum);
    const Vec shrink = exp2(old_maximum - maximum);
    Vec total = load(sum_at) * shrink;
    for (int64_t r = 0; r < rows; ++r) {
      const Vec p = exp2(load(scores + r * kColumnBlock) - maximum);
      store(scores + r * kColumnBlock, p);
      total += p;
    }
    store(maximum_at, maximum);
    store(sum_at, total);
    for (int64_t d = 0; d < width; ++d) {
      float* out = s.out_t.row(d) + column + v * kLanes;
      store(out, load(out) * shrink);
    }
  }
}

/// Divides out_t by the sums and writes it, and the log-sum-exp, for the queries of attend_block().
template <class T, class Out>
void store_block(const AttentionOperands<T, Out>& x, int64_t b, int64_t h, int64_t begin, int64_t count,
                 const ForwardScratch& s) {
  transpose(s.out_t, round_up(x.head_dim, kLanes), round_up(count, kColumnBlock), 1.0f, s.rows);
  const int64_t stride = x.heads * x.head_dim;
  const HeadRows<Out> out{x.out + (b * x.num_queries + begin) * stride + h * x.head_dim, stride, x.head_dim};
  for (int64_t i = 0; i < count; ++i) unpack_rows(s.rows.at(i, 0), 1, 1.0f / s.sums.data[i], out.from(i));
  if (!x.lse) return;
  float* lse = x.lse + (b * x.heads + h) * x.num_queries + begin;
  for (int64_t i = 0; i < count; ++i) lse[i] = s.maxima.data[i] + std::log2(s.sums.data[i]);
}

/// Queries [begin, begin + count) of head `h` of sample `b`.
template <class T, class Out>
void attend_block(const AttentionOperands<T, Out>& x, int64_t b, int64_t h, int64_t begin, int64_t count,
                  const ForwardScratch& s) {
  const int64_t dim = x.head_dim, width = round_up(dim, kLanes), columns = round_up(count, kColumnBlock);
  const int64_t kv_offset = b * x.key_batch_stride + h / (x.heads / x.kv_heads) * dim;
  const HeadRows<const T> queries{x.queries + b * x.query_batch_stride + h * dim, x.query_stride, dim};
  const HeadRows<const T> keys{x.keys + kv_offset, x.key_stride, dim},
      values{x.values + kv_offset, x.key_stride, dim};
  const int64_t position = x.first_position + begin;

  const Tile query_rows = as_tile(queries.from(begin), count, columns, width, s.rows);
  transpose(query_rows, columns, width, score_factor(dim), s.queries_t);
  fill_zero(s.out_t, width, columns);
  std::fill_n(s.maxima.data, columns, -std::numeric_limits<float>::infinity());
  std::fill_n(s.sums.data, columns, 0.0f);

  const int64_t keys_end = x.causal ? std::min(x.num_keys, position + count) : x.num_keys;
  for (int64_t key = 0; key < keys_end; key += kKeyTile) {
    const int64_t num_keys = std::min(kKeyTile, keys_end - key);
    const int64_t padded = round_up(num_keys, kRowBlock), next = key + kKeyTile;
    const Tile key_tile = as_tile(keys.from(key), num_keys, padded, width, s.keys);
    const Tile value_tile = as_tile(values.from(key), num_keys, padded, width, s.values);
    for (int64_t column = 0; column < columns; column += kColumnBlock) {
      Visibility visible{.count = num_keys};
      if (x.causal) visible.diagonal = position + column - key;
      const int64_t rows = round_up(visible.num_keys(), kRowBlock);
      if (rows == 0) continue;
      const int64_t share = kKeyTile * kColumnBlock / columns, ahead = next + share * (column / kColumnBlock);
      prefetch_rows(keys, ahead, std::min(ahead + share, keys_end));
      prefetch_rows(values, ahead, std::min(ahead + share, keys_end));
      multiply<Left::plain, Result::write>(rows, kColumnBlock, dim, key_tile, s.queries_t.at(0, column),
                                           s.scores);
      mask_scores(s.scores, rows, visible);
      online_softmax(s, rows, column, width);
      multiply<Left::transposed, Result::add>(width, kColumnBlock, rows, value_tile, s.scores,
                                              s.out_t.at(0, column));
    }
  }
  store_block(x, b, h, begin, count, s);
}

void attention_forward(Context& ctx, const Tensor& qkv, const AttentionShape& shape, Tensor& out,
                       Tensor& lse) {
  dispatch_compute("attention", qkv.dtype(), [&]<class T>(T) {
    const T* data = qkv.data<T>();
    const int64_t stride = shape.qkv_width();
    attend<T, T>(ctx, {.queries = data,
                       .query_batch_stride = shape.tokens * stride,
                       .query_stride = stride,
                       .keys = data + shape.heads * shape.head_dim,
                       .values = data + (shape.heads + shape.kv_heads) * shape.head_dim,
                       .key_batch_stride = shape.tokens * stride,
                       .key_stride = stride,
                       .out = out.data<T>(),
                       .lse = lse.data<float>(),
                       .batch = shape.batch,
                       .heads = shape.heads,
                       .kv_heads = shape.kv_heads,
                       .head_dim = shape.head_dim,
                       .num_queries = shape.tokens,
                       .num_keys = shape.tokens,
                       .causal = shape.causal});
  });
}

}  // namespace

template <class T, class Out>
void attend(Context& ctx, const AttentionOperands<T, Out>& x) {
  const int64_t num_blocks = (x.num_queries + kQueryBlock - 1) / kQueryBlock;
  const int64_t num_tasks = x.batch * x.heads * num_blocks;
  const int64_t width = round_up(x.head_dim, kLanes);
  const int num_threads = ctx.backend->num_threads();
  const int64_t scratch_floats = ForwardScratch(ScratchCarver(), width).num_floats;
  const Tensor scratch = ctx.empty({num_threads, scratch_floats}, DType::f32, MemoryClass::workspace);
  float* scratch_data = scratch.data<float>();
  // Blocks of one head follow one another, so that its keys and values stay in cache; under a causal mask the
  // last block is the most work and goes first.
#pragma omp parallel for schedule(dynamic) num_threads(num_threads)
  for (int64_t task = 0; task < num_tasks; ++task) {
    const ForwardScratch s(ScratchCarver(scratch_data + omp_get_thread_num() * scratch_floats), width);
    const int64_t head = task / num_blocks, begin = (num_blocks - 1 - task % num_blocks) * kQueryBlock;
    attend_block(x, head / x.heads, head % x.heads, begin, std::min(kQueryBlock, x.num_queries - begin), s);
  }
}

template void attend(Context&, const AttentionOperands<float>&);
template void attend(Context&, const AttentionOperands<bf16>&);
template void attend(Context&, const AttentionOperands<bf16, float>&);

void add_attention_forward(Backend& backend) {
  backend.add_kernel<AttentionForwardKernel>(&attention_forward);
}

}  // namespace trireme::cpu
