// Attention with a cache of keys and values, for generation: appends, then attends. Many new tokens (a
// prompt) go through the tiles of the forward pass. For a few, reading the cache is all the cost: a block
// takes a run of keys for the heads of queries that share them, and a second kernel merges the runs in their
// order ("Flash-Decoding": Dao et al., 2023).
#include <cmath>

#include "core/backend/cuda/attention_flash.cuh"
#include "core/backend/cuda/attention_flash.h"
#include "core/backend/cuda/kernels.h"

namespace trireme::cuda {
namespace {

constexpr int64_t kMaxTokensByRow = 8;  // above, tiles are faster
constexpr int kThreads = 256;
constexpr int kRun = kThreads;  // keys a block
constexpr int kHeads = 8;       // heads of queries a block
constexpr int kMaxDim = 256;
static_assert(kHeads == kThreads / kWarp);

template <class T>
struct DecodeOperands {
  const T* qkv;      // [B * new_tokens, (H + 2K) * D]
  T *keys, *values;  // [B, capacity, K, D]
  T* out;            // [B * new_tokens, H * D]
  float* parts;      // [B * new_tokens, H, num_runs, D]: sums over a run's keys, over its maximum
  float2* totals;    // [B * new_tokens, H, num_runs]: maximum of the scores (base 2), sum of exponentials
  int64_t capacity;
  int new_tokens, heads, kv_heads, head_dim, length, num_runs;
  bool packed;
  float factor;

  __device__ int group() const { return heads / kv_heads; }
  __device__ int64_t width() const { return int64_t{heads + 2 * kv_heads} * head_dim; }
};

/// Copies the new tokens' keys and values behind the `length` tokens of the cache.
template <class T>
__global__ void append_kernel(DecodeOperands<T> x, int64_t rows) {
  const int64_t row_size = int64_t{x.kv_heads} * x.head_dim, count = rows * row_size;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    const int64_t row = i / row_size, element = i % row_size, b = row / x.new_tokens, t = row % x.new_tokens;
    const T* from = x.qkv + row * x.width() + int64_t{x.heads} * x.head_dim + element;
    const int64_t to = (b * x.capacity + x.length + t) * row_size + element;
    x.keys[to] = from[0];
    x.values[to] = from[row_size];
  }
}

/// scores[h] = queries[h] . key for `count` heads; queries [kHeads][kMaxDim] in shared memory.
template <class T>
__device__ void score_key(const T* key, bool packed, int dim, const float (*queries)[kMaxDim],
                          float (&scores)[kHeads]) {
  for (float& s : scores) s = 0.0f;
  if (packed) {
    constexpr int kPack = Pack<T>::kSize;
#pragma unroll 4
    for (int d = 0; d < dim; d += kPack) {
      const Pack<T> pack = load_pack(key + d);
#pragma unroll
      for (int e = 0; e < kPack; ++e)
#pragma unroll
        for (int h = 0; h < kHeads; ++h) scores[h] += queries[h][d + e] * to_float(pack.v[e]);
    }
  } else {
    for (int d = 0; d < dim; ++d)
#pragma unroll
      for (int h = 0; h < kHeads; ++h) scores[h] += queries[h][d] * to_float(key[d]);
  }
}

/// A warp turns one head's scores of a run into exponentials; returns their maximum and sum.
__device__ float2 exponentials(float* scores) {
  const int lane = threadIdx.x % kWarp;
  float maximum = -INFINITY, sum = 0.0f;
  for (int k = lane; k < kRun; k += kWarp) maximum = fmaxf(maximum, scores[k]);
  maximum = warp_max(maximum);
  for (int k = lane; k < kRun; k += kWarp) sum += scores[k] = exp2f(scores[k] - maximum);
  return {maximum, warp_sum(sum)};
}

/// sums[h][slice * columns + d] = sum over every slices-th key of scores[h][key] * values[key][d]: threads
/// side by side take elements side by side, and where there are fewer elements than threads, several share
/// the keys.
template <class T>
__device__ void sum_values(const T* values, int64_t key_stride, int run_keys, int dim, int columns,
                           int slices, const float (*scores)[kRun], float (*sums)[kThreads]) {
  const int slice = threadIdx.x / columns, d = threadIdx.x % columns;
  float total[kHeads] = {};
  if (slice < slices && d < dim) {
#pragma unroll 8
    for (int k = slice; k < run_keys; k += slices) {
      const float value = to_float(values[k * key_stride + d]);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) total[h] += scores[h][k] * value;
    }
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) sums[h][threadIdx.x] = total[h];
}

/// Block (run, block of heads, new token). Shared memory: queries, scores, and sums that threads of one
/// element merge.
template <class T>
__global__ void __launch_bounds__(kThreads) run_kernel(DecodeOperands<T> x) {
  __shared__ float queries[kHeads][kMaxDim];
  __shared__ float scores[kHeads][kRun];
  __shared__ float sums[kHeads][kThreads];
  const int dim = x.head_dim, group = x.group(), blocks_a_group = (group + kHeads - 1) / kHeads;
  const int g = blockIdx.y / blocks_a_group;
  const int first = blockIdx.y % blocks_a_group * kHeads;  // of the group's heads
  const int count = min(kHeads, group - first), run = blockIdx.x;
  const int64_t row = blockIdx.z, b = row / x.new_tokens;
  const int num_keys = x.length + static_cast<int>(row % x.new_tokens) + 1, begin = run * kRun;
  const int run_keys = max(0, min(kRun, num_keys - begin));
  const int64_t key_stride = int64_t{x.kv_heads} * dim,
                at = (b * x.capacity + begin) * key_stride + int64_t{g} * dim;

  const T* q = x.qkv + row * x.width() + (int64_t{g} * group + first) * dim;
  for (int i = threadIdx.x; i < kHeads * dim; i += kThreads)
    queries[i / dim][i % dim] = i < count * dim ? to_float(q[i]) * x.factor : 0.0f;
  __syncthreads();

  float own[kHeads];
  const int key = threadIdx.x;
  if (key < run_keys) score_key(x.keys + at + key * key_stride, x.packed, dim, queries, own);
#pragma unroll
  for (int h = 0; h < kHeads; ++h) scores[h][key] = key < run_keys ? own[h] : -INFINITY;
  __syncthreads();

  const int warp = threadIdx.x / kWarp;
  const int64_t head = row * x.heads + int64_t{g} * group + first;  // of out's heads, that of index 0 here
  if (warp < count && run_keys > 0) {
    const float2 total = exponentials(scores[warp]);
    if (threadIdx.x % kWarp == 0) x.totals[(head + warp) * x.num_runs + run] = total;
  } else if (warp < count && threadIdx.x % kWarp == 0) {
    x.totals[(head + warp) * x.num_runs + run] = {-INFINITY, 0.0f};
  }
  __syncthreads();

  const int columns = (dim + kWarp - 1) / kWarp * kWarp, slices = kThreads / columns;
  sum_values(x.values + at, key_stride, run_keys, dim, columns, slices, scores, sums);
  __syncthreads();
  for (int i = threadIdx.x; i < count * dim; i += kThreads) {
    const int h = i / dim, element = i % dim;
    float sum = 0.0f;
    for (int s = 0; s < slices; ++s) sum += sums[h][s * columns + element];
    x.parts[((head + h) * x.num_runs + run) * dim + element] = sum;
  }
}

/// Block: one head of one new token. out = sum of the runs' parts over the sum of their totals.
template <class T>
__global__ void merge_kernel(DecodeOperands<T> x) {
  const int64_t head = blockIdx.x;
  const float2* totals = x.totals + head * x.num_runs;
  float maximum = -INFINITY;
  for (int r = 0; r < x.num_runs; ++r) maximum = fmaxf(maximum, totals[r].x);
  for (int d = threadIdx.x; d < x.head_dim; d += blockDim.x) {
    float sum = 0.0f, denominator = 0.0f;
    for (int r = 0; r < x.num_runs; ++r) {
      if (totals[r].y == 0.0f) continue;  // no key of the run is visible
      const float weight = exp2f(totals[r].x - maximum);
      sum += weight * x.parts[(head * x.num_runs + r) * x.head_dim + d];
      denominator += weight * totals[r].y;
    }
    x.out[head * x.head_dim + d] = from_float<T>(sum / denominator);
  }
}

template <class T>
void attend_by_rows(const Context& ctx, int64_t batch, DecodeOperands<T> x) {
  const int64_t rows = batch * x.new_tokens, group = x.heads / x.kv_heads;
  const Tensor parts =
      ctx.empty(Shape{rows, x.heads, x.num_runs, x.head_dim}, DType::f32, MemoryClass::workspace);
  const Tensor totals = ctx.empty(Shape{rows, x.heads, x.num_runs, 2}, DType::f32, MemoryClass::workspace);
  x.parts = elements<float>(parts);
  x.totals = elements<float2>(totals);
  const dim3 grid(static_cast<unsigned>(x.num_runs),
                  static_cast<unsigned>(x.kv_heads * ceil_div(group, kHeads)), static_cast<unsigned>(rows));
  run_kernel<T><<<grid, kThreads, 0, raw_stream(ctx)>>>(x);
  check_launch("attention with a cache");
  const int threads = static_cast<int>(ceil_div(x.head_dim, kWarp) * kWarp);
  merge_kernel<T><<<static_cast<unsigned>(rows * x.heads), threads, 0, raw_stream(ctx)>>>(x);
  check_launch("merging attention with a cache");
}

void attention_cached(Context& ctx, const Tensor& qkv, const AttentionShape& s, const KvCache& cache,
                      Tensor& out) {
  const int64_t rows = s.batch * s.tokens;
  if (rows == 0) return;
  dispatch_float("attention", qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    const DecodeOperands<T> x{.qkv = elements<T>(qkv),
                              .keys = elements<T>(cache.keys),
                              .values = elements<T>(cache.values),
                              .out = elements<T>(out),
                              .parts = nullptr,
                              .totals = nullptr,
                              .capacity = cache.keys.dim(1),
                              .new_tokens = static_cast<int>(s.tokens),
                              .heads = static_cast<int>(s.heads),
                              .kv_heads = static_cast<int>(s.kv_heads),
                              .head_dim = static_cast<int>(s.head_dim),
                              .length = static_cast<int>(cache.length),
                              .num_runs = static_cast<int>(ceil_div(cache.length + s.tokens, kRun)),
                              .packed = s.head_dim % Pack<T>::kSize == 0 && is_aligned(cache.keys.raw()),
                              .factor = score_factor(s.head_dim)};
    append_kernel<T>
        <<<grid_size(rows * s.kv_heads * s.head_dim, kThreads), kThreads, 0, raw_stream(ctx)>>>(x, rows);
    check_launch("append to a cache");
    const bool by_row = s.tokens <= kMaxTokensByRow && rows <= 65535 &&
                        s.kv_heads * ceil_div(s.heads / s.kv_heads, kHeads) <= 65535;
    by_row ? attend_by_rows(ctx, s.batch, x) : flash_forward_cached(ctx, qkv, s, cache, out);
  });
}

}  // namespace

void add_attention_decode(Backend& backend) {
  backend.add_kernel<AttentionCachedKernel>(&attention_cached);
}

}  // namespace trireme::cuda
