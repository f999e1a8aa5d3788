// Attention backward in tiles: probabilities are computed again from q, k and the saved log-sum-exp (Dao,
// FlashAttention-2, 2023, algorithm 2). One kernel has a block for each tile of keys, which goes over the
// queries of all heads that share them, for dk and dv; another one for each tile of queries, which goes over
// the keys, for dq. So every sum has one owner and one order.
#include <cmath>

#include "core/backend/cuda/attention_flash.cuh"
#include "core/backend/cuda/attention_flash.h"

namespace trireme::cuda {
namespace {

/// The gradients, of type Grad, are written, or added to if kAdd.
template <class T, class Grad, bool kAdd>
struct BackwardOperands {
  Heads<const T> queries, keys, values, d_out;
  Heads<Grad> d_queries, d_keys, d_values;
  const float *lse,
      *delta;  // of head h of sample b at (b * heads + h) * row_stride; delta = sum of d_out * out
  int64_t row_stride;
  int heads, kv_heads, head_dim;
  int num_queries, num_keys;  // the same if causal
  bool causal;
  float factor, scale;  // of scores to base 2, and 1 / sqrt(D)
};

/// delta[b, h, t] = sum over d of d_out * out; a warp a row.
template <class T>
__global__ void delta_kernel(int64_t rows, int tokens, int heads, int head_dim, const T* out, const T* d_out,
                             float* delta) {
  const int64_t row = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp;  // (b * T + t) * H + h
  const int lane = threadIdx.x % kWarp;
  if (row >= rows) return;
  float sum = 0.0f;
  for (int d = lane; d < head_dim; d += kWarp)
    sum += to_float(out[row * head_dim + d]) * to_float(d_out[row * head_dim + d]);
  sum = warp_sum(sum);
  const int64_t token = row / heads, h = row % heads, b = token / tokens, t = token % tokens;
  if (lane == 0) delta[(b * heads + h) * tokens + t] = sum;
}

/// Probability and d_score of one pair from its product q k and its product d_out v; zeros where the key is
/// not seen.
__device__ inline void softmax_backward(bool visible, float factor, float lse2, float delta, float& s,
                                        float& dp) {
  const float p = visible ? exp2f(s * factor - lse2) : 0.0f;
  dp = visible ? p * (dp - delta) : 0.0f;
  s = p;
}

template <class T, class Grad, bool kAdd, int kDim>
__global__ void __launch_bounds__(kFlashThreads)
    key_gradient_kernel(BackwardOperands<T, Grad, kAdd> x, int64_t num_heads) {
  using Tile = FlashTile<kDim>;
  constexpr int kTile = Tile::kTile, kPatch = Tile::kPatch;
  extern __shared__ float4 shared4[];
  float* keys = reinterpret_cast<float*>(shared4);
  float *values = keys + Tile::kFloats, *queries = values + Tile::kFloats, *d_out = queries + Tile::kFloats;
  float* weights = d_out + Tile::kFloats;  // [keys, queries]
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;

  // Under a causal mask the first tile is the most work; blocks start in order.
  const int first = static_cast<int>(blockIdx.x / num_heads) * kTile,
            num_keys = min(kTile, x.num_keys - first);
  const int64_t head = blockIdx.x % num_heads, b = head / x.kv_heads;
  const int g = static_cast<int>(head % x.kv_heads), group = x.heads / x.kv_heads;
  load_tile<kDim>(x.keys.rows(b, g).from(first), num_keys, keys);
  load_tile<kDim>(x.values.rows(b, g).from(first), num_keys, values);

  RowSums<kDim> d_keys, d_values;
  for (int h = g * group; h < (g + 1) * group; ++h) {
    const int64_t row = (b * x.heads + h) * x.row_stride;
    const float *lse = x.lse + row, *delta = x.delta + row;
    for (int query = x.causal ? first : 0; query < x.num_queries; query += kTile) {
      const int num_queries = min(kTile, x.num_queries - query);
      __syncthreads();  // the tiles of before are done with
      load_tile<kDim>(x.queries.rows(b, h).from(query), num_queries, queries);
      load_tile<kDim>(x.d_out.rows(b, h).from(query), num_queries, d_out);
      __syncthreads();
      float s[kPatch][kPatch], ds[kPatch][kPatch];
      multiply_rows<kDim>(keys, queries, s);
      multiply_rows<kDim>(values, d_out, ds);
#pragma unroll
      for (int j = 0; j < kPatch; ++j) {
        const int column = tx + kSide * j;
        const bool valid = column < num_queries;
        const float lse2 = valid ? lse[query + column] * static_cast<float>(M_LOG2E) : 0.0f;
        const float row_delta = valid ? delta[query + column] : 0.0f;
#pragma unroll
        for (int i = 0; i < kPatch; ++i) {
          const int row = ty * kPatch + i;
          const bool visible = valid && row < num_keys && (!x.causal || first + row <= query + column);
          softmax_backward(visible, x.factor, lse2, row_delta, s[i][j], ds[i][j]);
        }
      }
      store_weights<kDim>(s, weights);
      d_values.add(weights, d_out);  // dv += p^T d_out
      store_weights<kDim>(ds, weights);
      d_keys.add(weights, queries);  // dk += ds^T q
    }
  }
  float ones[kPatch], scales[kPatch];
#pragma unroll
  for (int i = 0; i < kPatch; ++i) ones[i] = 1.0f, scales[i] = x.scale;
  d_keys.template store<kAdd>(x.d_keys.rows(b, g).from(first), num_keys, scales);
  d_values.template store<kAdd>(x.d_values.rows(b, g).from(first), num_keys, ones);
}

template <class T, class Grad, bool kAdd, int kDim>
__global__ void __launch_bounds__(kFlashThreads)
    query_gradient_kernel(BackwardOperands<T, Grad, kAdd> x, int num_tiles, int64_t num_heads) {
  using Tile = FlashTile<kDim>;
  constexpr int kTile = Tile::kTile, kPatch = Tile::kPatch;
  extern __shared__ float4 shared4[];
  float* queries = reinterpret_cast<float*>(shared4);
  float *d_out = queries + Tile::kFloats, *keys = d_out + Tile::kFloats, *values = keys + Tile::kFloats;
  float* weights = values + Tile::kFloats;  // [queries, keys]
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;

  const int first = (num_tiles - 1 - static_cast<int>(blockIdx.x / num_heads)) * kTile;
  const int num_queries = min(kTile, x.num_queries - first);
  const int64_t head = blockIdx.x % num_heads, b = head / x.heads;
  const int h = static_cast<int>(head % x.heads), g = h / (x.heads / x.kv_heads);
  load_tile<kDim>(x.queries.rows(b, h).from(first), num_queries, queries);
  load_tile<kDim>(x.d_out.rows(b, h).from(first), num_queries, d_out);
  float lse2[kPatch], delta[kPatch];
#pragma unroll
  for (int i = 0; i < kPatch; ++i) {
    const int row = ty * kPatch + i;
    const int64_t at = head * x.row_stride + first + row;
    lse2[i] = row < num_queries ? x.lse[at] * static_cast<float>(M_LOG2E) : 0.0f;
    delta[i] = row < num_queries ? x.delta[at] : 0.0f;
  }

  RowSums<kDim> d_queries;
  const int keys_end = x.causal ? first + num_queries : x.num_keys;
  for (int key = 0; key < keys_end; key += kTile) {
    const int num_keys = min(kTile, keys_end - key);
    __syncthreads();  // the tiles of before are done with
    load_tile<kDim>(x.keys.rows(b, g).from(key), num_keys, keys);
    load_tile<kDim>(x.values.rows(b, g).from(key), num_keys, values);
    __syncthreads();
    float s[kPatch][kPatch], ds[kPatch][kPatch];
    multiply_rows<kDim>(queries, keys, s);
    multiply_rows<kDim>(d_out, values, ds);
#pragma unroll
    for (int i = 0; i < kPatch; ++i)
#pragma unroll
      for (int j = 0; j < kPatch; ++j) {
        const int row = ty * kPatch + i, column = tx + kSide * j;
        const bool visible =
            row < num_queries && column < num_keys && (!x.causal || key + column <= first + row);
        softmax_backward(visible, x.factor, lse2[i], delta[i], s[i][j], ds[i][j]);
      }
    store_weights<kDim>(ds, weights);
    d_queries.add(weights, keys);  // dq += ds k
  }
  float scales[kPatch];
#pragma unroll
  for (int i = 0; i < kPatch; ++i) scales[i] = x.scale;
  d_queries.template store<kAdd>(x.d_queries.rows(b, h).from(first), num_queries, scales);
}

template <class T, class Grad, bool kAdd>
void run_backward(const Context& ctx, int64_t batch, const BackwardOperands<T, Grad, kAdd>& x) {
  dispatch_dim(x.head_dim, [&](auto dim) {
    constexpr int kDim = decltype(dim)::value;
    constexpr int kTile = FlashTile<kDim>::kTile;
    const int64_t key_tiles = ceil_div(x.num_keys, kTile), query_tiles = ceil_div(x.num_queries, kTile);
    const int64_t key_heads = batch * x.kv_heads, query_heads = batch * x.heads;
    const size_t bytes = FlashTile<kDim>::bytes(4);
    launch_flash("attention's gradients of keys and values", ctx, &key_gradient_kernel<T, Grad, kAdd, kDim>,
                 key_tiles * key_heads, bytes, x, key_heads);
    launch_flash("attention's gradient of queries", ctx, &query_gradient_kernel<T, Grad, kAdd, kDim>,
                 query_tiles * query_heads, bytes, x, static_cast<int>(query_tiles), query_heads);
  });
}

/// f32 [B, H, T] from out and d_out [B * T, H * D] of type T.
template <class T>
Tensor make_delta(const Context& ctx, const AttentionShape& s, const Tensor& out, const Tensor& d_out) {
  const Tensor delta = ctx.empty({s.batch, s.heads, s.tokens}, DType::f32, MemoryClass::workspace);
  const int64_t rows = delta.numel();
  constexpr int kThreads = 256;
  delta_kernel<<<static_cast<unsigned>(ceil_div(rows * kWarp, kThreads)), kThreads, 0, raw_stream(ctx)>>>(
      rows, static_cast<int>(s.tokens), static_cast<int>(s.heads), static_cast<int>(s.head_dim),
      elements<T>(out), elements<T>(d_out), elements<float>(delta));
  check_launch("attention backward");
  return delta;
}

/// Heads from `first` on, of tokens from `begin` on, in rows of `stride` elements, `tokens` a sample.
template <class T>
Heads<T> heads_of(T* data, int64_t tokens, int64_t stride, int64_t head_dim, int64_t first,
                  int64_t begin = 0) {
  data += begin * stride + first * head_dim;
  const bool packed = head_dim % Pack<std::remove_const_t<T>>::kSize == 0 && is_aligned(data);
  return {data, tokens * stride, stride, static_cast<int>(head_dim), packed};
}

float scale_of(int64_t head_dim) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
}

}  // namespace

void flash_backward(Context& ctx, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                    const Tensor& d_out, const AttentionShape& s, Tensor& d_qkv) {
  if (lse.numel() == 0) return;
  dispatch_float("attention", qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    const Tensor delta = make_delta<T>(ctx, s, out, d_out);
    const auto heads = [&](auto* data, int64_t first) {
      return heads_of(data, s.tokens, s.qkv_width(), s.head_dim, first);
    };
    const T* data = elements<T>(qkv);
    T* d_data = elements<T>(d_qkv);
    const int64_t key = s.heads, value = s.heads + s.kv_heads;
    const int tokens = static_cast<int>(s.tokens);
    run_backward<T, T, false>(
        ctx, s.batch,
        {.queries = heads(data, 0),
         .keys = heads(data, key),
         .values = heads(data, value),
         .d_out = heads_of<const T>(elements<T>(d_out), s.tokens, s.heads * s.head_dim, s.head_dim, 0),
         .d_queries = heads(d_data, 0),
         .d_keys = heads(d_data, key),
         .d_values = heads(d_data, value),
         .lse = elements<float>(lse),
         .delta = elements<float>(delta),
         .row_stride = s.tokens,
         .heads = static_cast<int>(s.heads),
         .kv_heads = static_cast<int>(s.kv_heads),
         .head_dim = static_cast<int>(s.head_dim),
         .num_queries = tokens,
         .num_keys = tokens,
         .causal = s.causal,
         .factor = score_factor(s.head_dim),
         .scale = scale_of(s.head_dim)});
  });
}

void flash_backward_block(Context& ctx, const Tensor& qkv, const Tensor& kv, const Tensor& out,
                          const Tensor& lse, const Tensor& d_out, const AttentionBlock& block, Tensor& dq,
                          Tensor& d_kv) {
  const AttentionShape& s = block.shape;
  if (s.batch == 0 || block.queries.size() == 0 || block.keys.size() == 0) return;
  dispatch_float("attention of a block", qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    const Tensor delta = make_delta<T>(ctx, s, out, d_out);
    const auto queries = [&](auto* data, int64_t stride) {
      return heads_of(data, s.tokens, stride, s.head_dim, 0, block.queries.begin);
    };
    const auto keys = [&](auto* data, int64_t first) {
      return heads_of(data, block.kv_tokens, 2 * s.kv_heads * s.head_dim, s.head_dim, first,
                      block.keys.begin);
    };
    const T *q = elements<T>(qkv), *k = elements<T>(kv), *d_o = elements<T>(d_out);
    const int64_t out_width = s.heads * s.head_dim;
    run_backward<T, float, true>(ctx, s.batch,
                                 {.queries = queries(q, s.qkv_width()),
                                  .keys = keys(k, 0),
                                  .values = keys(k, s.kv_heads),
                                  .d_out = queries(d_o, out_width),
                                  .d_queries = queries(elements<float>(dq), out_width),
                                  .d_keys = keys(elements<float>(d_kv), 0),
                                  .d_values = keys(elements<float>(d_kv), s.kv_heads),
                                  .lse = elements<float>(lse) + block.queries.begin,
                                  .delta = elements<float>(delta) + block.queries.begin,
                                  .row_stride = s.tokens,
                                  .heads = static_cast<int>(s.heads),
                                  .kv_heads = static_cast<int>(s.kv_heads),
                                  .head_dim = static_cast<int>(s.head_dim),
                                  .num_queries = static_cast<int>(block.queries.size()),
                                  .num_keys = static_cast<int>(block.keys.size()),
                                  .causal = s.causal,
                                  .factor = score_factor(s.head_dim),
                                  .scale = scale_of(s.head_dim)});
  });
}

}  // namespace trireme::cuda
