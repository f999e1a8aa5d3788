// Attention backward in tiles: probabilities are computed again from q, k and the saved log-sum-exp (Dao,
// FlashAttention-2, 2023, algorithm 2). One kernel has a block for each tile of keys, which goes over the
// queries of all heads that share them, for dk and dv; another one for each tile of queries, which goes over
// the keys, for dq. So every sum has one owner and one order.
#include <cmath>

#include "core/backend/cuda/attention_flash.cuh"
#include "core/backend/cuda/attention_flash.h"

namespace trireme::cuda {
namespace {

template <class T>
struct BackwardOperands {
  const T *qkv, *d_out;
  const float *lse, *delta;  // [B, H, T]; delta = sum of d_out * out
  T* d_qkv;
  int tokens, heads, kv_heads, head_dim;
  bool causal, packed;
  float factor, scale;  // of scores to base 2, and 1 / sqrt(D)

  __device__ int key_head(int g) const { return heads + g; }
  __device__ int value_head(int g) const { return heads + kv_heads + g; }
  /// Head `index` of the packed rows, counting q's, then k's, then v's.
  template <class U>
  __device__ HeadRows<U> packed_rows(U* data, int64_t b, int index) const {
    const int64_t stride = int64_t{heads + 2 * kv_heads} * head_dim;
    return {data + b * tokens * stride + index * head_dim, stride, head_dim, packed};
  }
  __device__ HeadRows<const T> out_rows(const T* data, int64_t b, int h) const {
    const int64_t stride = int64_t{heads} * head_dim;
    return {data + b * tokens * stride + h * head_dim, stride, head_dim, packed};
  }
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

template <class T, int kDim>
__global__ void __launch_bounds__(kFlashThreads)
    key_gradient_kernel(BackwardOperands<T> x, int64_t num_heads) {
  using Tile = FlashTile<kDim>;
  constexpr int kTile = Tile::kTile, kPatch = Tile::kPatch;
  extern __shared__ float4 shared4[];
  float* keys = reinterpret_cast<float*>(shared4);
  float *values = keys + Tile::kFloats, *queries = values + Tile::kFloats, *d_out = queries + Tile::kFloats;
  float* weights = d_out + Tile::kFloats;  // [keys, queries]
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;

  // Under a causal mask the first tile is the most work; blocks start in order.
  const int first = static_cast<int>(blockIdx.x / num_heads) * kTile, num_keys = min(kTile, x.tokens - first);
  const int64_t head = blockIdx.x % num_heads, b = head / x.kv_heads;
  const int g = static_cast<int>(head % x.kv_heads), group = x.heads / x.kv_heads;
  load_tile<kDim>(x.packed_rows(x.qkv, b, x.key_head(g)).from(first), num_keys, keys);
  load_tile<kDim>(x.packed_rows(x.qkv, b, x.value_head(g)).from(first), num_keys, values);

  RowSums<kDim> d_keys, d_values;
  for (int h = g * group; h < (g + 1) * group; ++h) {
    const float *lse = x.lse + (b * x.heads + h) * x.tokens, *delta = x.delta + (b * x.heads + h) * x.tokens;
    for (int query = x.causal ? first : 0; query < x.tokens; query += kTile) {
      const int num_queries = min(kTile, x.tokens - query);
      __syncthreads();  // the tiles of before are done with
      load_tile<kDim>(x.packed_rows(x.qkv, b, h).from(query), num_queries, queries);
      load_tile<kDim>(x.out_rows(x.d_out, b, h).from(query), num_queries, d_out);
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
  d_keys.store(x.packed_rows(x.d_qkv, b, x.key_head(g)).from(first), num_keys, scales);
  d_values.store(x.packed_rows(x.d_qkv, b, x.value_head(g)).from(first), num_keys, ones);
}

template <class T, int kDim>
__global__ void __launch_bounds__(kFlashThreads)
    query_gradient_kernel(BackwardOperands<T> x, int num_tiles, int64_t num_heads) {
  using Tile = FlashTile<kDim>;
  constexpr int kTile = Tile::kTile, kPatch = Tile::kPatch;
  extern __shared__ float4 shared4[];
  float* queries = reinterpret_cast<float*>(shared4);
  float *d_out = queries + Tile::kFloats, *keys = d_out + Tile::kFloats, *values = keys + Tile::kFloats;
  float* weights = values + Tile::kFloats;  // [queries, keys]
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;

  const int first = (num_tiles - 1 - static_cast<int>(blockIdx.x / num_heads)) * kTile;
  const int num_queries = min(kTile, x.tokens - first);
  const int64_t head = blockIdx.x % num_heads, b = head / x.heads;
  const int h = static_cast<int>(head % x.heads), g = h / (x.heads / x.kv_heads);
  load_tile<kDim>(x.packed_rows(x.qkv, b, h).from(first), num_queries, queries);
  load_tile<kDim>(x.out_rows(x.d_out, b, h).from(first), num_queries, d_out);
  float lse2[kPatch], delta[kPatch];
#pragma unroll
  for (int i = 0; i < kPatch; ++i) {
    const int row = ty * kPatch + i;
    const int64_t at = head * x.tokens + first + row;
    lse2[i] = row < num_queries ? x.lse[at] * static_cast<float>(M_LOG2E) : 0.0f;
    delta[i] = row < num_queries ? x.delta[at] : 0.0f;
  }

  RowSums<kDim> d_queries;
  const int keys_end = x.causal ? first + num_queries : x.tokens;
  for (int key = 0; key < keys_end; key += kTile) {
    const int num_keys = min(kTile, keys_end - key);
    __syncthreads();  // the tiles of before are done with
    load_tile<kDim>(x.packed_rows(x.qkv, b, x.key_head(g)).from(key), num_keys, keys);
    load_tile<kDim>(x.packed_rows(x.qkv, b, x.value_head(g)).from(key), num_keys, values);
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
  d_queries.store(x.packed_rows(x.d_qkv, b, h).from(first), num_queries, scales);
}

template <class T>
void run_backward(const Context& ctx, int64_t batch, const BackwardOperands<T>& x) {
  dispatch_dim(x.head_dim, [&](auto dim) {
    constexpr int kDim = decltype(dim)::value;
    const int64_t num_tiles = ceil_div(x.tokens, FlashTile<kDim>::kTile);
    const int64_t key_heads = batch * x.kv_heads, query_heads = batch * x.heads;
    const size_t bytes = FlashTile<kDim>::bytes(4);
    launch_flash("attention's gradients of keys and values", ctx, &key_gradient_kernel<T, kDim>,
                 num_tiles * key_heads, bytes, x, key_heads);
    launch_flash("attention's gradient of queries", ctx, &query_gradient_kernel<T, kDim>,
                 num_tiles * query_heads, bytes, x, static_cast<int>(num_tiles), query_heads);
  });
}

}  // namespace

void flash_backward(Context& ctx, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                    const Tensor& d_out, const AttentionShape& s, Tensor& d_qkv) {
  const int64_t rows = s.batch * s.tokens * s.heads;
  if (rows == 0) return;
  const Tensor delta = ctx.empty(lse.shape(), DType::f32, MemoryClass::workspace);
  dispatch_float("attention", qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    const int tokens = static_cast<int>(s.tokens), heads = static_cast<int>(s.heads),
              dim = static_cast<int>(s.head_dim);
    constexpr int kThreads = 256;
    delta_kernel<<<static_cast<unsigned>(ceil_div(rows * kWarp, kThreads)), kThreads, 0, raw_stream(ctx)>>>(
        rows, tokens, heads, dim, elements<T>(out), elements<T>(d_out), elements<float>(delta));
    check_launch("attention backward");
    run_backward<T>(ctx, s.batch,
                    {.qkv = elements<T>(qkv),
                     .d_out = elements<T>(d_out),
                     .lse = elements<float>(lse),
                     .delta = elements<float>(delta),
                     .d_qkv = elements<T>(d_qkv),
                     .tokens = tokens,
                     .heads = heads,
                     .kv_heads = static_cast<int>(s.kv_heads),
                     .head_dim = dim,
                     .causal = s.causal,
                     .packed = dim % Pack<T>::kSize == 0 && is_aligned(qkv.raw()) && is_aligned(d_out.raw()),
                     .factor = score_factor(s.head_dim),
                     .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim)))});
  });
}

}  // namespace trireme::cuda
