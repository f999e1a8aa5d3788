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
constexpr int kChunk = 64;  // places in the order of the tokens, summed by one block

/// The data set's tokens were checked when it was opened: one outside the table is a bug, and nothing is computed from it.
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

template <int Width>
__device__ inline void add_to(float* to, const float* values) {
#pragma unroll
  for (int i = 0; i < Width; ++i) to[i] += values[i];
}

template <class T, int Width>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(int64_t rows, int64_t length, int64_t width, int64_t vocab, const int32_t* tokens, const T* w, const T* positions,
                   T* y) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int32_t token = tokens[row];
    check_token(token, vocab);
    for (int64_t c = int64_t{threadIdx.x} * Width; c < width; c += int64_t{kThreads} * Width) {
      float value[Width], position[Width] = {};
      load_row<T, Width>(w + token * width + c, value);
      if (positions) load_row<T, Width>(positions + row % length * width + c, position);
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

__global__ void count_up_kernel(int n, int32_t* places) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) places[i] = i;
}

/// Places in the order of their tokens; `head` and `tail` [chunks, width] take the sums of runs of one token that reach
/// into the chunk from before, or out of it.
template <class T>
struct SortedRows {
  int64_t n, width;
  const int32_t *tokens, *places;
  const T* dy;
  float *head, *tail, *dw;
};

template <class T, int Width>
__global__ void __launch_bounds__(kThreads) sum_chunks_kernel(SortedRows<T> a) {
  const int64_t begin = int64_t{blockIdx.x} * kChunk, end = min(begin + kChunk, a.n);
  const bool from_before = begin > 0 && a.tokens[begin - 1] == a.tokens[begin];
  for (int64_t c = int64_t{threadIdx.x} * Width; c < a.width; c += int64_t{kThreads} * Width) {
    float sum[Width] = {};
    int64_t run_begin = begin;
    for (int64_t i = begin; i < end; ++i) {
      float row[Width];
      load_row<T, Width>(a.dy + a.places[i] * a.width + c, row);
      add_to<Width>(sum, row);
      const int32_t token = a.tokens[i];
      const bool goes_on = i + 1 < a.n && a.tokens[i + 1] == token;
      if (goes_on && i + 1 < end) continue;
      float* to = a.dw + token * a.width;
      const bool is_part = (run_begin == begin && from_before) || goes_on;
      if (is_part) to = (run_begin == begin && from_before ? a.head : a.tail) + int64_t{blockIdx.x} * a.width;
#pragma unroll
      for (int k = 0; k < Width; ++k) {
        to[c + k] = (is_part ? 0.0f : to[c + k]) + sum[k];
        sum[k] = 0.0f;
      }
      run_begin = i + 1;
    }
  }
}

/// The run that begins in this block's chunk and reaches out of it: its parts in order.
template <class T>
__global__ void __launch_bounds__(kThreads) join_chunks_kernel(SortedRows<T> a) {
  const int64_t begin = int64_t{blockIdx.x} * kChunk, end = min(begin + kChunk, a.n);
  const int32_t token = a.tokens[end - 1];
  if (end == a.n || a.tokens[end] != token) return;
  if (begin > 0 && a.tokens[begin - 1] == token) return;  // it began earlier
  int64_t last = end;  // the run's end
  for (int64_t chunk_begin = end; chunk_begin < a.n && a.tokens[chunk_begin] == token; chunk_begin += kChunk) last = chunk_begin + 1;
  for (int64_t c = threadIdx.x; c < a.width; c += kThreads) {
    float sum = a.tail[int64_t{blockIdx.x} * a.width + c];
    for (int64_t chunk = blockIdx.x + 1; chunk * kChunk < last; ++chunk) sum += a.head[chunk * a.width + c];
    a.dw[token * a.width + c] += sum;
  }
}

template <class T, int Width>
__global__ void __launch_bounds__(kThreads)
    positions_kernel(int64_t samples, int64_t length, int64_t width, const T* dy, float* dpositions) {
  const int64_t position = blockIdx.x;
  for (int64_t c = int64_t{threadIdx.x} * Width; c < width; c += int64_t{kThreads} * Width) {
    float sum[Width] = {};
    for (int64_t b = 0; b < samples; ++b) {
      float row[Width];
      load_row<T, Width>(dy + (b * length + position) * width + c, row);
      add_to<Width>(sum, row);
    }
#pragma unroll
    for (int i = 0; i < Width; ++i) dpositions[position * width + c + i] += sum[i];
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

void embedding_forward(Context& ctx, const Tensor& tokens, const Tensor& w, const Tensor& positions, int64_t first_position,
                       Tensor& y) {
  const int64_t rows = tokens.numel(), width = w.dim(1);
  if (rows * width == 0) return;
  const bool aligned = is_aligned(w.raw()) && is_aligned(y.raw()) && (!positions.defined() || is_aligned(positions.raw()));
  dispatch_rows("embedding", w.dtype(), width, aligned, [&](auto type, auto access) {
    using T = decltype(type);
    const T* first = positions.defined() ? elements<T>(positions) + first_position * width : nullptr;
    forward_kernel<T, access><<<grid_size(rows, 1), kThreads, 0, raw_stream(ctx)>>>(
        rows, tokens.dim(1), width, w.dim(0), elements<int32_t>(tokens), elements<T>(w), first, elements<T>(y));
  });
}

struct SortedTokens {
  Tensor tokens, places;  // i32 [n]
};

SortedTokens sort_tokens(Context& ctx, const Tensor& tokens, int64_t vocab) {
  const int n = static_cast<int>(tokens.numel());
  const int bits = std::bit_width(static_cast<uint64_t>(vocab));
  const auto stream = raw_stream(ctx);
  const auto scratch = [&] { return ctx.empty({n}, DType::i32, MemoryClass::workspace); };
  const Tensor places = scratch();
  SortedTokens sorted{scratch(), scratch()};
  count_up_kernel<<<grid_size(n, kThreads, n), kThreads, 0, stream>>>(n, elements<int32_t>(places));
  size_t bytes = 0;
  const auto sort = [&](void* memory) {
    check(cub::DeviceRadixSort::SortPairs(memory, bytes, elements<int32_t>(tokens), elements<int32_t>(sorted.tokens),
                                          elements<int32_t>(places), elements<int32_t>(sorted.places), n, 0, std::min(bits, 31), stream),
          "sort of tokens");
  };
  sort(nullptr);
  const Tensor memory = ctx.empty({static_cast<int64_t>(bytes)}, DType::u8, MemoryClass::workspace);
  sort(memory.raw());
  return sorted;
}

void embedding_backward_tokens(Context& ctx, const Tensor& tokens, const Tensor& dy, Tensor& dw) {
  const int64_t n = tokens.numel(), width = dw.dim(1);
  if (n * width == 0) return;
  const SortedTokens sorted = sort_tokens(ctx, tokens, dw.dim(0));
  const int chunks = static_cast<int>(ceil_div(n, kChunk));
  const Tensor head = ctx.empty({chunks, width}, DType::f32, MemoryClass::workspace);
  const Tensor tail = ctx.empty({chunks, width}, DType::f32, MemoryClass::workspace);
  dispatch_rows("embedding backward", dy.dtype(), width, is_aligned(dy.raw()), [&](auto type, auto access) {
    using T = decltype(type);
    const SortedRows<T> a{n, width, elements<int32_t>(sorted.tokens), elements<int32_t>(sorted.places), elements<T>(dy),
                          elements<float>(head), elements<float>(tail), elements<float>(dw)};
    sum_chunks_kernel<T, access><<<chunks, kThreads, 0, raw_stream(ctx)>>>(a);
    join_chunks_kernel<T><<<chunks, kThreads, 0, raw_stream(ctx)>>>(a);
  });
}

void embedding_backward_positions(Context& ctx, const Tensor& dy, int64_t tokens_per_sample, int64_t first_position,
                                  Tensor& dpositions) {
  const int64_t width = dy.dim(1), samples = tokens_per_sample ? dy.dim(0) / tokens_per_sample : 0;
  if (samples * width == 0) return;
  dispatch_rows("embedding backward", dy.dtype(), width, is_aligned(dy.raw()), [&](auto type, auto access) {
    using T = decltype(type);
    positions_kernel<T, access><<<static_cast<int>(tokens_per_sample), kThreads, 0, raw_stream(ctx)>>>(
        samples, tokens_per_sample, width, elements<T>(dy), elements<float>(dpositions) + first_position * width);
  });
}

}  // namespace

void add_embedding_kernels(Backend& backend) {
  backend.add_kernel<EmbeddingForward>(&embedding_forward);
  backend.add_kernel<EmbeddingBackwardTokens>(&embedding_backward_tokens);
  backend.add_kernel<EmbeddingBackwardPositions>(&embedding_backward_positions);
}

}  // namespace trireme::cuda
