// Attention forward in tiles: a block takes a tile of one head's queries through all tiles of keys, with the
// softmax kept up as the tiles come ("online": Milakov & Gimelshein, 2018; Dao, FlashAttention-2, 2023).
#include "core/backend/cuda/attention_flash.h"

#include <cmath>

#include "core/backend/cuda/attention_flash.cuh"

namespace trireme::cuda {
namespace {

template <class T, class Out>
struct ForwardOperands {
  const T* queries;
  int64_t query_batch_stride, query_stride;  // elements from sample to sample, and from token to token
  const T *keys, *values;
  int64_t key_batch_stride, key_stride;
  Out* out;    // [B, num_queries, H, D]
  float* lse;  // [B, H, num_queries], natural; may be null
  int heads, kv_heads, head_dim;
  int num_queries, num_keys, first_position;  // the position of query 0 among the keys
  bool causal, packed;
  float factor;

  __device__ HeadRows<const T> query_rows(int64_t b, int h) const {
    return {queries + b * query_batch_stride + h * head_dim, query_stride, head_dim, packed};
  }
  __device__ HeadRows<const T> key_rows(const T* data, int64_t b, int h) const {
    return {data + b * key_batch_stride + h / (heads / kv_heads) * head_dim, key_stride, head_dim, packed};
  }
};

/// The maxima and the sums of exponentials of a thread's rows, the same in the 16 threads that share them.
template <int kPatch>
struct Softmax {
  float maximum[kPatch], sum[kPatch];

  __device__ Softmax() {
#pragma unroll
    for (int i = 0; i < kPatch; ++i) maximum[i] = -INFINITY, sum[i] = 0.0f;
  }
  /// Scores become exponentials over the new maxima; `shrink` is what takes older sums there.
  __device__ void add(float (&s)[kPatch][kPatch], float (&shrink)[kPatch]) {
#pragma unroll
    for (int i = 0; i < kPatch; ++i) {
      float largest = maximum[i];
#pragma unroll
      for (int j = 0; j < kPatch; ++j) largest = fmaxf(largest, s[i][j]);
      for (int lane = kSide / 2; lane > 0; lane /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, lane));
      float total = 0.0f;
#pragma unroll
      for (int j = 0; j < kPatch; ++j) total += s[i][j] = exp2f(s[i][j] - largest);
      for (int lane = kSide / 2; lane > 0; lane /= 2) total += __shfl_xor_sync(kAllLanes, total, lane);
      shrink[i] = exp2f(maximum[i] - largest);
      sum[i] = sum[i] * shrink[i] + total;
      maximum[i] = largest;
    }
  }
};

template <class T, class Out, int kDim>
__global__ void __launch_bounds__(kFlashThreads)
    forward_kernel(ForwardOperands<T, Out> x, int num_tiles, int64_t num_heads) {
  using Tile = FlashTile<kDim>;
  constexpr int kTile = Tile::kTile, kPatch = Tile::kPatch;
  extern __shared__ float4 shared4[];
  float* queries = reinterpret_cast<float*>(shared4);
  float *keys = queries + Tile::kFloats, *values = keys + Tile::kFloats, *weights = values + Tile::kFloats;
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;

  // Under a causal mask the last tile is the most work and goes first.
  const int first = (num_tiles - 1 - static_cast<int>(blockIdx.x / num_heads)) * kTile;
  const int64_t head = blockIdx.x % num_heads, b = head / x.heads;
  const int h = static_cast<int>(head % x.heads), count = min(kTile, x.num_queries - first);
  const int keys_end = x.causal ? min(x.num_keys, x.first_position + first + count) : x.num_keys;
  const HeadRows<const T> key_rows = x.key_rows(x.keys, b, h), value_rows = x.key_rows(x.values, b, h);
  load_tile<kDim>(x.query_rows(b, h).from(first), count, queries);

  Softmax<kPatch> softmax;
  RowSums<kDim> sums;
  for (int key = 0; key < keys_end; key += kTile) {
    const int num_keys = min(kTile, keys_end - key);
    __syncthreads();  // the tiles of before are done with
    load_tile<kDim>(key_rows.from(key), num_keys, keys);
    load_tile<kDim>(value_rows.from(key), num_keys, values);
    __syncthreads();
    float s[kPatch][kPatch], shrink[kPatch];
    multiply_rows<kDim>(queries, keys, s);
#pragma unroll
    for (int i = 0; i < kPatch; ++i)
#pragma unroll
      for (int j = 0; j < kPatch; ++j) {
        const int column = tx + kSide * j, last = x.first_position + first + ty * kPatch + i - key;
        s[i][j] = column < num_keys && (!x.causal || column <= last) ? s[i][j] * x.factor : -INFINITY;
      }
    softmax.add(s, shrink);
    store_weights<kDim>(s, weights);
#pragma unroll
    for (int i = 0; i < kPatch; ++i)
#pragma unroll
      for (int c = 0; c < Tile::kChunks; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums.v[i][c][e] *= shrink[i];
    sums.add(weights, values);
  }

  const int64_t out_stride = int64_t{x.heads} * x.head_dim;
  float inverse[kPatch];
#pragma unroll
  for (int i = 0; i < kPatch; ++i) inverse[i] = 1.0f / softmax.sum[i];
  sums.store(HeadRows<Out>{x.out + (b * x.num_queries + first) * out_stride + h * x.head_dim, out_stride,
                           x.head_dim, x.packed},
             count, inverse);
  if (!x.lse || tx != 0) return;
#pragma unroll
  for (int i = 0; i < kPatch; ++i)
    if (ty * kPatch + i < count)
      x.lse[head * x.num_queries + first + ty * kPatch + i] =
          (softmax.maximum[i] + log2f(softmax.sum[i])) * static_cast<float>(M_LN2);
}

template <class T, class Out>
void run_forward(const Context& ctx, int64_t batch, const ForwardOperands<T, Out>& x) {
  const int64_t num_heads = batch * x.heads;
  if (num_heads == 0 || x.num_queries == 0) return;
  dispatch_dim(x.head_dim, [&](auto dim) {
    constexpr int kDim = decltype(dim)::value;
    const int64_t num_tiles = ceil_div(x.num_queries, FlashTile<kDim>::kTile);
    launch_flash("attention", ctx, &forward_kernel<T, Out, kDim>, num_tiles * num_heads,
                 FlashTile<kDim>::bytes(3), x, static_cast<int>(num_tiles), num_heads);
  });
}

}  // namespace

void flash_forward(Context& ctx, const Tensor& qkv, const AttentionShape& s, Tensor& out, Tensor& lse) {
  dispatch_float("attention", qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* data = elements<T>(qkv);
    const int tokens = static_cast<int>(s.tokens), dim = static_cast<int>(s.head_dim);
    run_forward<T, T>(ctx, s.batch,
                      {.queries = data,
                       .query_batch_stride = s.tokens * s.qkv_width(),
                       .query_stride = s.qkv_width(),
                       .keys = data + s.heads * s.head_dim,
                       .values = data + (s.heads + s.kv_heads) * s.head_dim,
                       .key_batch_stride = s.tokens * s.qkv_width(),
                       .key_stride = s.qkv_width(),
                       .out = elements<T>(out),
                       .lse = elements<float>(lse),
                       .heads = static_cast<int>(s.heads),
                       .kv_heads = static_cast<int>(s.kv_heads),
                       .head_dim = dim,
                       .num_queries = tokens,
                       .num_keys = tokens,
                       .first_position = 0,
                       .causal = s.causal,
                       .packed = dim % Pack<T>::kSize == 0 && is_aligned(data),
                       .factor = score_factor(s.head_dim)});
  });
}

void flash_forward_block(Context& ctx, const Tensor& qkv, const Tensor& kv, const AttentionBlock& block,
                         Tensor& out, Tensor& lse) {
  const AttentionShape& s = block.shape;
  dispatch_float("attention of a block", qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    const int64_t stride = s.qkv_width(), kv_stride = 2 * s.kv_heads * s.head_dim;
    const T *queries = elements<T>(qkv) + block.queries.begin * stride,
            *keys = elements<T>(kv) + block.keys.begin * kv_stride;
    const int dim = static_cast<int>(s.head_dim);
    run_forward<T, float>(ctx, s.batch,
                          {.queries = queries,
                           .query_batch_stride = s.tokens * stride,
                           .query_stride = stride,
                           .keys = keys,
                           .values = keys + s.kv_heads * s.head_dim,
                           .key_batch_stride = block.kv_tokens * kv_stride,
                           .key_stride = kv_stride,
                           .out = elements<float>(out),
                           .lse = elements<float>(lse),
                           .heads = static_cast<int>(s.heads),
                           .kv_heads = static_cast<int>(s.kv_heads),
                           .head_dim = dim,
                           .num_queries = static_cast<int>(block.queries.size()),
                           .num_keys = static_cast<int>(block.keys.size()),
                           .first_position = 0,
                           .causal = s.causal,
                           .packed = dim % Pack<T>::kSize == 0 && is_aligned(queries) && is_aligned(keys),
                           .factor = score_factor(s.head_dim)});
  });
}

void flash_forward_cached(Context& ctx, const Tensor& qkv, const AttentionShape& s, const KvCache& cache,
                          Tensor& out) {
  dispatch_float("attention", qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    const T *data = elements<T>(qkv), *keys = elements<T>(cache.keys), *values = elements<T>(cache.values);
    const int dim = static_cast<int>(s.head_dim);
    run_forward<T, T>(
        ctx, s.batch,
        {.queries = data,
         .query_batch_stride = s.tokens * s.qkv_width(),
         .query_stride = s.qkv_width(),
         .keys = keys,
         .values = values,
         .key_batch_stride = cache.keys.dim(1) * s.kv_heads * s.head_dim,
         .key_stride = s.kv_heads * s.head_dim,
         .out = elements<T>(out),
         .lse = nullptr,
         .heads = static_cast<int>(s.heads),
         .kv_heads = static_cast<int>(s.kv_heads),
         .head_dim = dim,
         .num_queries = static_cast<int>(s.tokens),
         .num_keys = static_cast<int>(cache.length + s.tokens),
         .first_position = static_cast<int>(cache.length),
         .causal = true,
         .packed = dim % Pack<T>::kSize == 0 && is_aligned(data) && is_aligned(keys) && is_aligned(values),
         .factor = score_factor(s.head_dim)});
  });
}

}  // namespace trireme::cuda
