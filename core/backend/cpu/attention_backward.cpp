// Attention backward: probabilities are computed again from q, k and the saved log-sum-exp, tile by tile
// (Dao, FlashAttention-2, 2023, algorithm 2). A task is one head of keys and values with all the heads of
// queries that share it, so that dk and dv are sums of one thread, in one order, whatever the number of
// threads.
#include <omp.h>

#include <cmath>

#include "core/backend/cpu/attention_forward.h"
#include "core/ops/attention.h"

namespace trireme::cpu {
namespace {

constexpr int64_t kQueryBlock = 64;
static_assert(kQueryBlock % kColumnBlock == 0);

struct BackwardScratch {
  BackwardScratch(ScratchCarver carver, int64_t width, int64_t padded_tokens)
      : d_keys(carver.take(padded_tokens, width)),
        d_values(carver.take(padded_tokens, width)),
        keys(carver.take(kKeyTile, width)),
        values(carver.take(kKeyTile, width)),
        queries(carver.take(kQueryBlock, width)),
        queries_t(carver.take(width, kQueryBlock)),
        out(carver.take(kQueryBlock, width)),
        d_out(carver.take(kQueryBlock, width)),
        d_out_t(carver.take(width, kQueryBlock)),
        d_queries_t(carver.take(width, kQueryBlock)),
        probabilities(carver.take(kKeyTile, kQueryBlock)),
        d_scores(carver.take(kKeyTile, kQueryBlock)),
        lse(carver.take(1, kQueryBlock)),
        delta(carver.take(1, kQueryBlock)),
        num_floats(carver.num_floats()) {}

  Tile d_keys, d_values;         // [tokens, width], of the whole head
  Tile keys, values;             // where rows that need padding or are bf16 are packed
  Tile queries, queries_t, out;  // of a block; the transposes are what scores are made from
  Tile d_out, d_out_t;
  Tile d_queries_t;
  Tile probabilities, d_scores;  // [keys, queries]
  Tile lse, delta;               // of each query; delta = sum of d_out * out
  int64_t num_floats;
};

template <class T>
struct BackwardOperands {
  const T* qkv;
  const T* out;
  const float* lse;
  const T* d_out;
  T* d_qkv;
  AttentionShape shape;

  /// Head `index` of the packed rows, counting q's, then k's, then v's.
  template <class U>
  HeadRows<U> packed(U* data, int64_t b, int64_t index) const {
    const int64_t stride = shape.qkv_width();
    return {data + b * shape.tokens * stride + index * shape.head_dim, stride, shape.head_dim};
  }
  HeadRows<const T> output(const T* data, int64_t b, int64_t h) const {
    const int64_t stride = shape.heads * shape.head_dim;
    return {data + b * shape.tokens * stride + h * shape.head_dim, stride, shape.head_dim};
  }
};

/// A block of queries: what a tile of keys meets. Rows behind its end are zero, and get zero gradients.
struct QueryBlock {
  Tile queries, d_out;  // [kQueryBlock, width]
  int64_t position = 0;
};

/// Loads queries [begin, begin + count) of head `h`, and fills their transposes, lse and delta.
template <class T>
QueryBlock load_queries(const BackwardOperands<T>& x, int64_t b, int64_t h, int64_t begin, int64_t count,
                        const BackwardScratch& s) {
  const AttentionShape& shape = x.shape;
  const int64_t width = round_up(shape.head_dim, kLanes);
  const auto tile = [&](HeadRows<const T> rows, Tile scratch) {
    return as_tile(rows.from(begin), count, kQueryBlock, width, scratch);
  };
  const Tile queries = tile(x.packed(x.qkv, b, h), s.queries);
  const Tile d_out = tile(x.output(x.d_out, b, h), s.d_out), out = tile(x.output(x.out, b, h), s.out);
  transpose(queries, kQueryBlock, width, score_factor(shape.head_dim), s.queries_t);
  transpose(d_out, kQueryBlock, width, 1.0f, s.d_out_t);
  for (int64_t i = 0; i < kQueryBlock; ++i) {
    Vec products{};
    for (int64_t d = 0; d < width; d += kLanes) products += load(d_out.row(i) + d) * load(out.row(i) + d);
    s.delta.data[i] = sum(products);
  }
  std::fill_n(s.lse.data, kQueryBlock, 0.0f);
  std::copy_n(x.lse + (b * shape.heads + h) * shape.tokens + begin, count, s.lse.data);
  return {queries, d_out, begin};
}

/// For the queries of one column block: scores become probabilities, and their gradients (in d_scores,
/// before: d_out v^T) those of the scores.
void softmax_backward(const BackwardScratch& s, int64_t rows, int64_t column) {
  for (int v = 0; v < 2; ++v) {
    const int64_t at = column + v * kLanes;
    const Vec lse = load(s.lse.data + at), delta = load(s.delta.data + at);
    for (int64_t r = 0; r < rows; ++r) {
      const Vec p = exp2(load(s.probabilities.row(r) + at) - lse);
      store(s.probabilities.row(r) + at, p);
      store(s.d_scores.row(r) + at, p * (load(s.d_scores.row(r) + at) - delta));
    }
  }
}

/// Takes a block of queries through a tile of keys, of which the first is at `key`; adds to dq^T, dk and dv.
void backward_tile(const QueryBlock& block, Tile keys, Tile values, int64_t key, int64_t num_keys, int64_t width,
                   bool causal, const BackwardScratch& s) {
  for (int64_t column = 0; column < kQueryBlock; column += kColumnBlock) {
    Visibility visible{.count = num_keys};
    if (causal) visible.diagonal = block.position + column - key;
    const int64_t rows = round_up(visible.num_keys(), kRowBlock);
    if (rows == 0) continue;
    const Tile p = s.probabilities.at(0, column), ds = s.d_scores.at(0, column);
    multiply<Left::plain, Result::write>(rows, kColumnBlock, width, keys, s.queries_t.at(0, column), p);
    mask_scores(p, rows, visible);
    multiply<Left::plain, Result::write>(rows, kColumnBlock, width, values, s.d_out_t.at(0, column), ds);
    softmax_backward(s, rows, column);
    // dq^T += k^T ds ; dv += p do ; dk += ds q
    multiply<Left::transposed, Result::add>(width, kColumnBlock, rows, keys, ds, s.d_queries_t.at(0, column));
    multiply<Left::plain, Result::add>(rows, width, kColumnBlock, p, block.d_out.at(column, 0), s.d_values.at(key, 0));
    multiply<Left::plain, Result::add>(rows, width, kColumnBlock, ds, block.queries.at(column, 0), s.d_keys.at(key, 0));
  }
}

/// Key-value head `g` of sample `b`.
template <class T>
void backward_head(const BackwardOperands<T>& x, int64_t b, int64_t g, const BackwardScratch& s) {
  const AttentionShape& shape = x.shape;
  const int64_t tokens = shape.tokens, width = round_up(shape.head_dim, kLanes), group = shape.heads / shape.kv_heads;
  const int64_t key_head = shape.heads + g, value_head = key_head + shape.kv_heads;
  const HeadRows<const T> keys = x.packed(x.qkv, b, key_head), values = x.packed(x.qkv, b, value_head);
  const auto factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
  fill_zero(s.d_keys, round_up(tokens, kRowBlock), width);
  fill_zero(s.d_values, round_up(tokens, kRowBlock), width);
  for (int64_t h = g * group; h < (g + 1) * group; ++h)
    for (int64_t begin = 0; begin < tokens; begin += kQueryBlock) {
      const int64_t count = std::min(kQueryBlock, tokens - begin);
      const QueryBlock block = load_queries(x, b, h, begin, count, s);
      fill_zero(s.d_queries_t, width, kQueryBlock);
      const int64_t keys_end = shape.causal ? begin + count : tokens;
      for (int64_t key = 0; key < keys_end; key += kKeyTile) {
        const int64_t num_keys = std::min(kKeyTile, keys_end - key), padded = round_up(num_keys, kRowBlock);
        const Tile key_tile = as_tile(keys.from(key), num_keys, padded, width, s.keys);
        const Tile value_tile = as_tile(values.from(key), num_keys, padded, width, s.values);
        backward_tile(block, key_tile, value_tile, key, num_keys, width, shape.causal, s);
      }
      transpose(s.d_queries_t, width, kQueryBlock, factor, s.queries);
      unpack_rows(s.queries, count, 1.0f, x.packed(x.d_qkv, b, h).from(begin));
    }
  unpack_rows(s.d_keys, tokens, factor, x.packed(x.d_qkv, b, key_head));
  unpack_rows(s.d_values, tokens, 1.0f, x.packed(x.d_qkv, b, value_head));
}

template <class T>
void backward_heads(Context& ctx, const BackwardOperands<T>& x) {
  const int num_threads = ctx.backend->num_threads();
  const int64_t num_tasks = x.shape.batch * x.shape.kv_heads;
  const int64_t width = round_up(x.shape.head_dim, kLanes),
                padded_tokens = round_up(x.shape.tokens, kRowBlock);
  const int64_t scratch_floats = BackwardScratch(ScratchCarver(), width, padded_tokens).num_floats;
  const Tensor scratch = ctx.empty({num_threads, scratch_floats}, DType::f32, MemoryClass::workspace);
  float* scratch_data = scratch.data<float>();
#pragma omp parallel for schedule(dynamic) num_threads(num_threads)
  for (int64_t task = 0; task < num_tasks; ++task) {
    const ScratchCarver carver(scratch_data + omp_get_thread_num() * scratch_floats);
    const BackwardScratch s(carver, width, padded_tokens);
    backward_head(x, task / x.shape.kv_heads, task % x.shape.kv_heads, s);
  }
}

void attention_backward(Context& ctx, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                        const Tensor& d_out, const AttentionShape& shape, Tensor& d_qkv) {
  with_storage_type(qkv.dtype(), [&]<class T>(T*) {
    backward_heads<T>(ctx, {.qkv = qkv.data<T>(),
                            .out = out.data<T>(),
                            .lse = lse.data<float>(),
                            .d_out = d_out.data<T>(),
                            .d_qkv = d_qkv.data<T>(),
                            .shape = shape});
  });
}

}  // namespace

void add_attention_backward(Backend& backend) {
  backend.add_kernel<AttentionBackwardKernel>(&attention_backward);
}

}  // namespace trireme::cpu
