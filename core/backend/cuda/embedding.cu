// The kernels of embedding. The gradient of the table is a sum of rows by token: the places of each token are brought
// together by a stable sort, and summed in chunks of a fixed number of places, so that a token that is everywhere
// keeps many blocks busy and the order of every sum is the same each time.
#include "core/ops/embedding.h"

#include <cub/device/device_radix_sort.cuh>

#include <bit>
#include <cstdio>

#include "core/backend/cuda/device.cuh"
#include "core/backend/cuda/kernels.h"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kChunk = 32;  // places in the order of the tokens, summed by one block
constexpr int kAhead = 4;   // rows that a thread reads before it adds the first
constexpr int kJoinWarps = 8, kJoinColumns = 4 * kWarp;

/// The data set's tokens were checked when it was opened: one outside the vocabulary is a bug, and nothing is computed
/// from it.
__device__ inline void check_token(int32_t token, int64_t vocab) {
  if (token >= 0 && token < vocab) return;
  printf("embedding: token %d is outside the vocabulary of %lld\n", token, static_cast<long long>(vocab));
  __trap();
}

/// `Width` elements in a row, as floats: a pack, or one where rows are not whole packs.
template <class T, int Width>
__device__ inline void load_row(const T* from, float* to) {
  if constexpr (Width == 1) {
    to[0] = to_float(*from);
  } else {
    const Pack<T> pack = load_pack(from);
#pragma unroll
    for (int i = 0; i < Width; ++i) to[i] = to_float(pack.v[i]);
  }
}

/// `Width` f32 in a row, 16 bytes at a time.
template <int Width>
__device__ inline void load_floats(const float* from, float* to) {
  if constexpr (Width == 1) {
    to[0] = *from;
  } else {
#pragma unroll
    for (int i = 0; i < Width; i += 4) load_row<float, 4>(from + i, to + i);
  }
}
template <int Width>
__device__ inline void store_floats(float* to, const float* values) {
  if constexpr (Width == 1) {
    *to = values[0];
  } else {
#pragma unroll
    for (int i = 0; i < Width; i += 4) store_pack(to + i, Pack<float>{values[i], values[i + 1], values[i + 2], values[i + 3]});
  }
}

/// Rows [first, first + held) of a table of `vocab`.
struct HeldRows {
  int64_t first, held, vocab;
};

template <class T, int Width>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(int64_t rows, int64_t length, int64_t width, HeldRows table, const int32_t* tokens, const T* w,
                   const T* positions, TokenPositions at, T* y) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int32_t token = tokens[row];
    check_token(token, table.vocab);
    const int64_t w_row = token - table.first;
    const bool is_held = w_row >= 0 && w_row < table.held;
    const int64_t position_row = positions ? at.at(row % length) : 0;
    for (int64_t c = int64_t{threadIdx.x} * Width; c < width; c += int64_t{kThreads} * Width) {
      float value[Width] = {}, position[Width] = {};
      if (is_held) load_row<T, Width>(w + w_row * width + c, value);
      if (positions) load_row<T, Width>(positions + position_row * width + c, position);
      if constexpr (Width == 1) {
        y[row * width + c] = from_float<T>(value[0] + position[0]);
      } else {
        Pack<T> out;
#pragma unroll
        for (int i = 0; i < Width; ++i) out.v[i] = from_float<T>(value[i] + position[i]);
        store_pack(y + row * width + c, out);
      }
    }
  }
}

/// Each place, and which row of the table its token is: `held`, which sorts behind all rows, for those of other ranks.
__global__ void find_rows_kernel(int n, HeldRows table, const int32_t* tokens, int32_t* rows, int32_t* places) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  check_token(tokens[i], table.vocab);
  const int64_t row = tokens[i] - table.first;
  rows[i] = static_cast<int32_t>(row >= 0 && row < table.held ? row : table.held);
  places[i] = i;
}

/// Places in the order of their tokens, which are numbered by dw's rows; those from `held` on count nothing. `head` and
/// `tail` [chunks, width] take the sums of runs of one token that reach into the chunk from before, or out of it.
template <class T>
struct SortedRows {
  int64_t n, width, held;
  const int32_t *tokens, *places;
  const T* dy;
  float *head, *tail, *dw;
};

/// A run inside of the chunk is added to dw here, and by nobody else. kAhead rows are under way at a time, and with them the
/// rows of dw that their runs begin with.
template <class T, int Width>
__global__ void __launch_bounds__(kThreads) sum_chunks_kernel(SortedRows<T> a) {
  __shared__ int32_t tokens[kChunk], places[kChunk];
  const int64_t begin = int64_t{blockIdx.x} * kChunk;
  static_assert(kChunk <= kWarp, "a thread for each place of a chunk");
  const int own = threadIdx.x;
  bool is_held = false;
  if (own < kChunk && begin + own < a.n) {
    tokens[own] = a.tokens[begin + own];
    places[own] = a.places[begin + own];
    is_held = tokens[own] < a.held;
  }
  const int count = __syncthreads_count(is_held);  // they are the first
  if (count == 0) return;
  const int32_t before = begin > 0 ? a.tokens[begin - 1] : -1;
  const int32_t after = begin + count < a.n ? a.tokens[begin + count] : -1;
  const int64_t c = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * Width;
  if (c >= a.width) return;
  const auto is_whole = [&](int i) { return tokens[i] != before && tokens[i] != after; };
  float sum[Width] = {};
  for (int first = 0; first < count; first += kAhead) {
    float rows[kAhead][Width], starts[kAhead][Width] = {};
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int i = first + k;
      if (i >= count) continue;
      load_row<T, Width>(a.dy + places[i] * a.width + c, rows[k]);
      if ((i == 0 || tokens[i] != tokens[i - 1]) && is_whole(i)) load_floats<Width>(a.dw + tokens[i] * a.width + c, starts[k]);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int i = first + k;
      if (i >= count) continue;
      const bool begins = i == 0 || tokens[i] != tokens[i - 1];
#pragma unroll
      for (int j = 0; j < Width; ++j) sum[j] = (begins ? starts[k][j] : sum[j]) + rows[k][j];
      if (i + 1 < count && tokens[i + 1] == tokens[i]) continue;
      float* part = (tokens[i] == before ? a.head : a.tail) + int64_t{blockIdx.x} * a.width;
      store_floats<Width>((is_whole(i) ? a.dw + tokens[i] * a.width : part) + c, sum);
    }
  }
}

/// The run that begins in this block's chunk and reaches out of it: kJoinColumns columns of its parts, each warp every
/// kJoinWarps-th part, and then the warps' sums in order.
template <class T>
__global__ void __launch_bounds__(kJoinWarps* kWarp) join_chunks_kernel(SortedRows<T> a) {
  __shared__ float shared[kJoinWarps][kJoinColumns];
  const int64_t chunk = blockIdx.x, begin = chunk * kChunk, end = begin + kChunk;
  if (end >= a.n) return;
  const int32_t token = a.tokens[end - 1];
  if (a.tokens[end] != token || token >= a.held) return;
  if (begin > 0 && a.tokens[begin - 1] == token) return;  // it began earlier
  int64_t run_end = end + 1;  // tokens are in order, so that those of the run are found by halving
  for (int64_t high = a.n; run_end < high;) {
    const int64_t middle = (run_end + high) / 2;
    if (a.tokens[middle] == token) run_end = middle + 1;
    else high = middle;
  }
  const int64_t last = (run_end - 1) / kChunk - chunk;  // parts: the chunk's tail, and the heads of as many behind it
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t first_column = int64_t{blockIdx.y} * kJoinColumns;
  float sum[kJoinColumns / kWarp] = {};
#pragma unroll 4
  for (int64_t part = warp; part <= last; part += kJoinWarps) {
    const float* from = (part == 0 ? a.tail : a.head) + (chunk + part) * a.width;
#pragma unroll
    for (int k = 0; k < kJoinColumns / kWarp; ++k) {
      const int64_t c = first_column + k * kWarp + lane;
      if (c < a.width) sum[k] += from[c];
    }
  }
#pragma unroll
  for (int k = 0; k < kJoinColumns / kWarp; ++k) shared[warp][k * kWarp + lane] = sum[k];
  __syncthreads();
  const int64_t c = first_column + threadIdx.x;
  if (threadIdx.x >= kJoinColumns || c >= a.width) return;
  float total = shared[0][threadIdx.x];
  for (int w = 1; w < kJoinWarps; ++w) total += shared[w][threadIdx.x];
  a.dw[token * a.width + c] += total;
}

template <class T, int Width>
__global__ void __launch_bounds__(kThreads)
    positions_kernel(int64_t samples, int64_t length, int64_t width, const T* dy, TokenPositions at, float* dpositions) {
  const int64_t t = blockIdx.x, position = at.at(t);
  for (int64_t c = int64_t{threadIdx.x} * Width; c < width; c += int64_t{kThreads} * Width) {
    float sum[Width];
    load_floats<Width>(dpositions + position * width + c, sum);
#pragma unroll 4
    for (int64_t b = 0; b < samples; ++b) {
      float row[Width];
      load_row<T, Width>(dy + (b * length + t) * width + c, row);
#pragma unroll
      for (int i = 0; i < Width; ++i) sum[i] += row[i];
    }
    store_floats<Width>(dpositions + position * width + c, sum);
  }
}

/// f(T{}, width of an access as a constant).
template <class F>
void dispatch_rows(const char* name, DType dtype, int64_t width, bool aligned, const F& f) {
  dispatch_float(name, dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kSize = Pack<T>::kSize;
    if (aligned && width % kSize == 0)
      f(type, std::integral_constant<int, kSize>{});
    else
      f(type, std::integral_constant<int, 1>{});
    check_launch(name);
  });
}

HeldRows held_rows(TableRows table, const Tensor& w) { return {table.first, w.dim(0), table.vocab_of(w)}; }

void embedding_forward(Context& ctx, const Tensor& tokens, const Tensor& w, TableRows table, const Tensor& positions,
                       TokenPositions at, Tensor& y) {
  const int64_t rows = tokens.numel(), width = w.dim(1);
  if (rows * width == 0) return;
  const bool aligned = is_aligned(w.raw()) && is_aligned(y.raw()) && (!positions.defined() || is_aligned(positions.raw()));
  dispatch_rows("embedding", w.dtype(), width, aligned, [&](auto type, auto access) {
    using T = decltype(type);
    forward_kernel<T, access><<<grid_size(rows, 1), kThreads, 0, raw_stream(ctx)>>>(
        rows, tokens.dim(1), width, held_rows(table, w), elements<int32_t>(tokens), elements<T>(w), elements<T>(positions), at,
        elements<T>(y));
  });
}

struct SortedTokens {
  Tensor tokens, places;  // i32 [n]
};

SortedTokens sort_tokens(Context& ctx, const Tensor& tokens, HeldRows table) {
  const int n = static_cast<int>(tokens.numel());
  const int bits = std::bit_width(static_cast<uint64_t>(table.held));
  const auto stream = raw_stream(ctx);
  const auto scratch = [&] { return ctx.empty({n}, DType::i32, MemoryClass::workspace); };
  const Tensor rows = scratch(), places = scratch();
  SortedTokens sorted{scratch(), scratch()};
  find_rows_kernel<<<grid_size(n, kThreads, n), kThreads, 0, stream>>>(n, table, elements<int32_t>(tokens),
                                                                       elements<int32_t>(rows), elements<int32_t>(places));
  size_t bytes = 0;
  const auto sort = [&](void* memory) {
    check(cub::DeviceRadixSort::SortPairs(memory, bytes, elements<int32_t>(rows), elements<int32_t>(sorted.tokens),
                                          elements<int32_t>(places), elements<int32_t>(sorted.places), n, 0, std::min(bits, 31), stream),
          "sort of tokens");
  };
  sort(nullptr);
  const Tensor memory = ctx.empty({static_cast<int64_t>(bytes)}, DType::u8, MemoryClass::workspace);
  sort(memory.raw());
  return sorted;
}

void embedding_backward_tokens(Context& ctx, const Tensor& tokens, const Tensor& dy, TableRows table, Tensor& dw) {
  const int64_t n = tokens.numel(), width = dw.dim(1);
  if (n * width == 0) return;
  const SortedTokens sorted = sort_tokens(ctx, tokens, held_rows(table, dw));
  const int chunks = static_cast<int>(ceil_div(n, kChunk));
  const Tensor head = ctx.empty({chunks, width}, DType::f32, MemoryClass::workspace);
  const Tensor tail = ctx.empty({chunks, width}, DType::f32, MemoryClass::workspace);
  dispatch_rows("embedding backward", dy.dtype(), width, is_aligned(dy.raw()) && is_aligned(dw.raw()), [&](auto type, auto access) {
    using T = decltype(type);
    const SortedRows<T> a{n, width, dw.dim(0), elements<int32_t>(sorted.tokens), elements<int32_t>(sorted.places), elements<T>(dy),
                          elements<float>(head), elements<float>(tail), elements<float>(dw)};
    const int64_t accesses = ceil_div(width, access);
    const int threads = static_cast<int>(std::min<int64_t>(kThreads, ceil_div(accesses, kWarp) * kWarp));
    const auto stream = raw_stream(ctx);
    sum_chunks_kernel<T, access><<<dim3(chunks, static_cast<unsigned>(ceil_div(accesses, threads))), threads, 0, stream>>>(a);
    join_chunks_kernel<T><<<dim3(chunks, static_cast<unsigned>(ceil_div(width, kJoinColumns))), kJoinWarps * kWarp, 0, stream>>>(a);
  });
}

void embedding_backward_positions(Context& ctx, const Tensor& dy, int64_t tokens_per_sample, TokenPositions at,
                                  Tensor& dpositions) {
  const int64_t width = dy.dim(1), samples = tokens_per_sample ? dy.dim(0) / tokens_per_sample : 0;
  if (samples * width == 0) return;
  const bool aligned = is_aligned(dy.raw()) && is_aligned(dpositions.raw());
  dispatch_rows("embedding backward", dy.dtype(), width, aligned, [&](auto type, auto access) {
    using T = decltype(type);
    positions_kernel<T, access><<<static_cast<int>(tokens_per_sample), kThreads, 0, raw_stream(ctx)>>>(
        samples, tokens_per_sample, width, elements<T>(dy), at, elements<float>(dpositions));
  });
}

}  // namespace

void add_embedding_kernels(Backend& backend) {
  backend.add_kernel<EmbeddingForward>(&embedding_forward);
  backend.add_kernel<EmbeddingBackwardTokens>(&embedding_backward_tokens);
  backend.add_kernel<EmbeddingBackwardPositions>(&embedding_backward_positions);
}

}  // namespace trireme::cuda
