// What kernels with a block a row of logits are made of: the pass that finds the largest logit and the sum of
// exponentials, and the pass that writes the gradient. softmax_rows.cu runs both at once, softmax_part.cu
// with an exchange between them.
#pragma once

#include <cfloat>

#include "core/backend/cuda/device.cuh"

namespace trireme::cuda {

constexpr int kMaxRowThreads = 1024;
constexpr int kUnroll = 4;  // loads in flight a thread

/// e^x for x <= 0. 16-bit logits need no more than the fast one gives.
template <class T>
__device__ inline float exp_of(float x) {
  return __expf(x);
}
template <>
__device__ inline float exp_of<float>(float x) {
  return expf(x);
}

/// kSize neighbours: a pack of 16 bytes, or one element.
template <class T, int kSize>
struct alignas(sizeof(T) * kSize) Piece {
  T v[kSize];
};
template <class T, int kSize>
__device__ inline Piece<T, kSize> load_piece(const T* from) {
  Piece<T, kSize> out;
  if constexpr (kSize == 1) {
    out.v[0] = *from;
  } else {
    static_assert(sizeof(out) == sizeof(uint4));
    *reinterpret_cast<uint4*>(&out) = __ldcs(reinterpret_cast<const uint4*>(from));
  }
  return out;
}
template <class T, int kSize>
__device__ inline void store_piece(T* to, const Piece<T, kSize>& piece) {
  if constexpr (kSize == 1)
    *to = piece.v[0];
  else
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&piece);
}

/// The sum of e^(x - max), and max.
struct Normalizer {
  float max = -FLT_MAX, sum = 0.0f;
};

template <class T, int kSize>
__device__ inline void add_piece(Normalizer& n, const Piece<T, kSize>& piece, int left) {
  float x[kSize];
  float max = n.max;
#pragma unroll
  for (int k = 0; k < kSize; ++k) {
    x[k] = k < left ? to_float(piece.v[k]) : -INFINITY;
    max = fmaxf(max, x[k]);  // leaves NaN out, but the sum has it
  }
  float sum = n.sum * exp_of<T>(n.max - max);
#pragma unroll
  for (int k = 0; k < kSize; ++k) sum += exp_of<T>(x[k] - max);
  n = {max, sum};
}

/// Of the whole block, in every thread, always added in the same order.
template <class T>
__device__ inline Normalizer combine(Normalizer n) {
  __shared__ Normalizer of_warp[kMaxRowThreads / kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const auto over_warp = [](Normalizer own) {
    const float max = warp_max(own.max);
    return Normalizer{max, warp_sum(own.sum * exp_of<T>(own.max - max))};
  };
  n = over_warp(n);
  if (lane == 0) of_warp[warp] = n;
  __syncthreads();
  return over_warp(lane < warps ? of_warp[lane] : Normalizer());
}

template <class T, int kSize>
__device__ inline void zero_row(T* row, int pieces) {
  Piece<T, kSize> zeros;
#pragma unroll
  for (int k = 0; k < kSize; ++k) zeros.v[k] = from_float<T>(0.0f);
  for (int i = threadIdx.x; i < pieces; i += blockDim.x) store_piece(row + i * kSize, zeros);
}

/// First pass over the pieces that hold columns of the vocabulary. A thread finds in the second pass those of
/// the first `cached` pieces that it put into shared memory itself.
template <class T, int kSize>
__device__ inline Normalizer read_row(const T* row, int pieces, int vocab, Piece<T, kSize>* cache,
                                      int cached) {
  const int threads = blockDim.x;
  Normalizer n;
  int i = threadIdx.x;
  for (; i + (kUnroll - 1) * threads < pieces; i += kUnroll * threads) {
    Piece<T, kSize> piece[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) piece[u] = load_piece<T, kSize>(row + (i + u * threads) * kSize);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int at = i + u * threads;
      if (at < cached) cache[at] = piece[u];
      add_piece(n, piece[u], vocab - at * kSize);
    }
  }
  for (; i < pieces; i += threads) {
    const Piece<T, kSize> piece = load_piece<T, kSize>(row + i * kSize);
    if (i < cached) cache[i] = piece;
    add_piece(n, piece, vocab - i * kSize);
  }
  return combine<T>(n);
}

/// Second pass: row = factor (softmax - onehot(target)), and zeros behind the vocabulary; target below 0: it
/// is not of this row. What the target's thread learns, its logit, goes to `at_target`.
template <class T, int kSize, class AtTarget>
__device__ inline void write_gradient(T* row, int pieces, int vocab, int target, Normalizer n, float factor,
                                      const Piece<T, kSize>* cache, int cached, const AtTarget& at_target) {
  const int used = (vocab + kSize - 1) / kSize;
  const float scale = factor / n.sum;
  for (int i = threadIdx.x; i < used; i += blockDim.x) {
    const Piece<T, kSize> in = i < cached ? cache[i] : load_piece<T, kSize>(row + i * kSize);
    const int left = vocab - i * kSize, target_at = target >= 0 ? target - i * kSize : -1;
    Piece<T, kSize> out;
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      const float x = to_float(in.v[k]), e = exp_of<T>(x - n.max);
      float gradient = k < left ? scale * e : 0.0f;
      if (k == target_at) {
        gradient = factor * (e / n.sum - 1.0f);
        at_target(x);
      }
      out.v[k] = from_float<T>(gradient);
    }
    store_piece(row + i * kSize, out);
  }
  zero_row<T, kSize>(row + used * kSize, pieces - used);
}

}  // namespace trireme::cuda
