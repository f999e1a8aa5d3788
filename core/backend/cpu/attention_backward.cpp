// Attention backward: probabilities are computed again from q, k and the saved log-sum-exp, tile by tile
// (Dao, FlashAttention-2, 2023, algorithm 2). A task is one head of keys and values with the heads of queries
// that share it, so that dk and dv are sums of one thread; where there are too few heads for the threads, a
// task is a part of those queries, and the parts' sums are added in order. The same number of threads gives
// the same bits each time; another number may split otherwise, and differ by rounding.
#include "core/backend/cpu/attention_backward.h"

#include <omp.h>

#include <cmath>

#include "core/backend/cpu/attention_forward.h"
#include "core/backend/cpu/dispatch.h"
#include "core/ops/attention.h"

namespace trireme::cpu {
namespace {

constexpr int64_t kQueryBlock = 64;
static_assert(kQueryBlock % kColumnBlock == 0);

/// dk and dv of one head, [tokens, width].
struct KeyGradients {
  KeyGradients(ScratchCarver carver, int64_t width, int64_t tokens)
      : keys(carver.take(round_up(tokens, kRowBlock), width)),
        values(carver.take(round_up(tokens, kRowBlock), width)),
        num_floats(carver.num_floats()) {}

  Tile keys, values;
  int64_t num_floats;
};

/// What a thread needs for a block of queries and a tile of keys.
struct BackwardScratch {
  BackwardScratch(ScratchCarver carver, int64_t width)
      : keys(carver.take(kKeyTile, width)),
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

  Tile keys, values;             // where rows that need padding or are bf16 are packed
  Tile queries, queries_t, out;  // of a block; the transposes are what scores are made from
  Tile d_out, d_out_t;
  Tile d_queries_t;
  Tile probabilities, d_scores;  // [keys, queries]
  Tile lse, delta;               // of each query; delta = sum of d_out * out
  int64_t num_floats;
};

int64_t num_blocks(int64_t num_queries) {
  return (num_queries + kQueryBlock - 1) / kQueryBlock;
}

/// Of scores: 1 / sqrt(D).
float scale_of(int64_t head_dim) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
}

/// A block of queries: what a tile of keys meets. Rows behind its end are zero, and get zero gradients.
struct QueryBlock {
  Tile queries, d_out;  // [kQueryBlock, width]
  int64_t position = 0;
};

/// Loads queries [begin, begin + count) of head `h`, and fills their transposes, lse and delta.
template <class Operands>
QueryBlock load_queries(const Operands& x, int64_t b, int64_t h, int64_t begin, int64_t count,
                        const BackwardScratch& s) {
  const int64_t width = round_up(x.head_dim, kLanes);
  const auto tile = [&](const auto& heads, Tile scratch) {
    return as_tile(heads.rows(b, h).from(begin), count, kQueryBlock, width, scratch);
  };
  const Tile queries = tile(x.queries, s.queries), d_out = tile(x.d_out, s.d_out), out = tile(x.out, s.out);
  transpose(queries, kQueryBlock, width, score_factor(x.head_dim), s.queries_t);
  transpose(d_out, kQueryBlock, width, 1.0f, s.d_out_t);
  for (int64_t i = 0; i < kQueryBlock; ++i) {
    Vec products{};
    for (int64_t d = 0; d < width; d += kLanes) products += load(d_out.row(i) + d) * load(out.row(i) + d);
    s.delta.data[i] = sum(products);
  }
  std::fill_n(s.lse.data, kQueryBlock, 0.0f);
  std::copy_n(x.lse + (b * x.heads + h) * x.lse_stride + begin, count, s.lse.data);
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
void backward_tile(const QueryBlock& block, Tile keys, Tile values, int64_t key, int64_t num_keys,
                   int64_t width, bool causal, const BackwardScratch& s, const KeyGradients& sums) {
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
    multiply<Left::plain, Result::add>(rows, width, kColumnBlock, p, block.d_out.at(column, 0),
                                       sums.values.at(key, 0));
    multiply<Left::plain, Result::add>(rows, width, kColumnBlock, ds, block.queries.at(column, 0),
                                       sums.keys.at(key, 0));
  }
}

/// One task: every `num_parts`-th block of the queries that share key-value head `g` of sample `b`. Stores
/// their dq, and leaves what they add to dk and dv in `sums`.
template <class T, class Grad, Result kResult>
void backward_part(const AttentionGradients<T, Grad, kResult>& x, int64_t b, int64_t g, int64_t part,
                   int64_t num_parts, const BackwardScratch& s, const KeyGradients& sums) {
  const int64_t width = round_up(x.head_dim, kLanes), padded_keys = round_up(x.num_keys, kRowBlock);
  const int64_t group = x.heads / x.kv_heads, blocks = num_blocks(x.num_queries);
  const HeadRows<const T> keys = x.keys.rows(b, g), values = x.values.rows(b, g);
  fill_zero(sums.keys, padded_keys, width);
  fill_zero(sums.values, padded_keys, width);
  for (int64_t i = part; i < group * blocks; i += num_parts) {
    const int64_t h = g * group + i / blocks, begin = i % blocks * kQueryBlock;
    const int64_t count = std::min(kQueryBlock, x.num_queries - begin);
    const QueryBlock block = load_queries(x, b, h, begin, count, s);
    fill_zero(s.d_queries_t, width, kQueryBlock);
    const int64_t keys_end = x.causal ? begin + count : x.num_keys;
    for (int64_t key = 0; key < keys_end; key += kKeyTile) {
      const int64_t num_keys = std::min(kKeyTile, keys_end - key), padded = round_up(num_keys, kRowBlock);
      const Tile key_tile = as_tile(keys.from(key), num_keys, padded, width, s.keys);
      const Tile value_tile = as_tile(values.from(key), num_keys, padded, width, s.values);
      backward_tile(block, key_tile, value_tile, key, num_keys, width, x.causal, s, sums);
    }
    transpose(s.d_queries_t, width, kQueryBlock, scale_of(x.head_dim), s.queries);
    unpack_rows<kResult>(s.queries, count, 1.0f, x.d_queries.rows(b, h).from(begin));
  }
}

template <class T, class Grad, Result kResult>
void store_key_gradients(const AttentionGradients<T, Grad, kResult>& x, int64_t b, int64_t g,
                         const KeyGradients& sums) {
  unpack_rows<kResult>(sums.keys, x.num_keys, scale_of(x.head_dim), x.d_keys.rows(b, g));
  unpack_rows<kResult>(sums.values, x.num_keys, 1.0f, x.d_values.rows(b, g));
}

/// Into how many tasks a head is split: one where that keeps the threads busy, as then nothing is left to
/// add.
int64_t choose_num_parts(int64_t num_heads, int64_t num_blocks, int64_t num_threads) {
  if (num_heads % num_threads == 0 || num_heads >= 4 * num_threads) return 1;
  return std::min(num_blocks, (4 * num_threads + num_heads - 1) / num_heads);
}

void attention_backward(Context& ctx, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                        const Tensor& d_out, const AttentionShape& s, Tensor& d_qkv) {
  dispatch_compute("attention", qkv.dtype(), [&]<class T>(T) {
    const auto packed = [&](auto* data, int64_t head) {
      return Heads<std::remove_pointer_t<decltype(data)>>{data + head * s.head_dim, s.tokens * s.qkv_width(), s.qkv_width(), s.head_dim};
    };
    const auto output = [&](const T* data) {
      const int64_t stride = s.heads * s.head_dim;
      return Heads<const T>{data, s.tokens * stride, stride, s.head_dim};
    };
    const T* data = qkv.data<T>();
    T* d_data = d_qkv.data<T>();
    const int64_t key = s.heads, value = s.heads + s.kv_heads;
    attend_backward(ctx, AttentionGradients<T>{.queries = packed(data, 0),
                                               .keys = packed(data, key),
                                               .values = packed(data, value),
                                               .out = output(out.data<T>()),
                                               .d_out = output(d_out.data<T>()),
                                               .d_queries = packed(d_data, 0),
                                               .d_keys = packed(d_data, key),
                                               .d_values = packed(d_data, value),
                                               .lse = lse.data<float>(),
                                               .lse_stride = s.tokens,
                                               .batch = s.batch,
                                               .heads = s.heads,
                                               .kv_heads = s.kv_heads,
                                               .head_dim = s.head_dim,
                                               .num_queries = s.tokens,
                                               .num_keys = s.tokens,
                                               .causal = s.causal});
  });
}

}  // namespace

template <class T, class Grad, Result kResult>
void attend_backward(Context& ctx, const AttentionGradients<T, Grad, kResult>& x) {
  const int64_t kv_heads = x.kv_heads, num_heads = x.batch * kv_heads, width = round_up(x.head_dim, kLanes);
  const int num_threads = ctx.backend->num_threads();
  const int64_t num_parts =
      choose_num_parts(num_heads, x.heads / kv_heads * num_blocks(x.num_queries), num_threads);
  const int64_t num_sums = num_parts == 1 ? num_threads : num_heads * num_parts;
  const int64_t sum_floats = KeyGradients(ScratchCarver(), width, x.num_keys).num_floats;
  const int64_t scratch_floats = BackwardScratch(ScratchCarver(), width).num_floats;
  const Tensor sums = ctx.empty({num_sums, sum_floats}, DType::f32, MemoryClass::workspace);
  const Tensor scratch = ctx.empty({num_threads, scratch_floats}, DType::f32, MemoryClass::workspace);
  const auto sums_at = [&, data = sums.data<float>()](int64_t i) {
    return KeyGradients(ScratchCarver(data + i * sum_floats), width, x.num_keys);
  };
  float* scratch_data = scratch.data<float>();
#pragma omp parallel for schedule(dynamic) num_threads(num_threads)
  for (int64_t task = 0; task < num_heads * num_parts; ++task) {
    const int64_t thread = omp_get_thread_num(), head = task / num_parts;
    const BackwardScratch s(ScratchCarver(scratch_data + thread * scratch_floats), width);
    const KeyGradients own = sums_at(num_parts == 1 ? thread : task);
    backward_part(x, head / kv_heads, head % kv_heads, task % num_parts, num_parts, s, own);
    if (num_parts == 1) store_key_gradients(x, head / kv_heads, head % kv_heads, own);
  }
  if (num_parts == 1) return;
#pragma omp parallel for schedule(static) num_threads(num_threads)
  for (int64_t head = 0; head < num_heads; ++head) {
    const KeyGradients total = sums_at(head * num_parts);
    for (int64_t part = 1; part < num_parts; ++part) {
      const KeyGradients other = sums_at(head * num_parts + part);
      for (int64_t i = 0; i < sum_floats; ++i)
        total.keys.data[i] += other.keys.data[i];  // and values behind them
    }
    store_key_gradients(x, head / kv_heads, head % kv_heads, total);
  }
}

template void attend_backward(Context&, const AttentionGradients<float, float, Result::add>&);
template void attend_backward(Context&, const AttentionGradients<bf16, float, Result::add>&);

void add_attention_backward(Backend& backend) {
  backend.add_kernel<AttentionBackwardKernel>(&attention_backward);
}

}  // namespace trireme::cpu
