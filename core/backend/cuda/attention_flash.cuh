// Tiles of attention in shared memory: kTile rows (queries or keys) of one head as f32, padded with zeros to
// kDim elements, and the two products that forward and backward are made of. A block is 16 x 16 threads;
// thread (tx, ty) holds rows ty * kPatch ... of a product. Threads of one ty are half a warp, so what passes
// between them needs no barrier of the block.
#pragma once

#include "core/backend/cuda/device.cuh"
#include "core/ops/attention.h"

namespace trireme::cuda {

constexpr int kSide = 16;  // threads a side of a block
constexpr int kFlashThreads = kSide * kSide;
constexpr unsigned kAllLanes = 0xffffffffu;

template <int kDim>
struct FlashTile {
  static constexpr int kTile = kDim > 128 ? 32 : 64;  // rows
  static constexpr int kPatch = kTile / kSide;        // rows a thread
  static constexpr int kChunks = kDim / (4 * kSide);  // of 4 elements in a row, a thread
  static constexpr int kStride = kDim + 4;  // floats from row to row: 16-byte accesses hit all banks
  static constexpr int kFloats = kTile * kStride;
  static constexpr int kWeightStride = kTile + 4;
  static constexpr int kWeightFloats = kTile * kWeightStride;
  static constexpr size_t bytes(int tiles) { return (tiles * kFloats + kWeightFloats) * sizeof(float); }
};

/// f(std::integral_constant<int, kDim>{}) with the padded size for heads of head_dim elements.
template <class F>
void dispatch_dim(int64_t head_dim, const F& f) {
  if (head_dim <= 64) return f(std::integral_constant<int, 64>{});
  if (head_dim <= 128) return f(std::integral_constant<int, 128>{});
  f(std::integral_constant<int, 256>{});
}

/// The vectors of one head for consecutive tokens: `stride` elements from token to token, `dim` of each.
template <class T>
struct HeadRows {
  T* data;
  int64_t stride;
  int dim;
  bool packed;  // 16-byte accesses are aligned and whole

  __device__ HeadRows from(int row) const { return {data + row * stride, stride, dim, packed}; }
};

/// Where the heads of a tensor's tokens lie, side by side; strides count elements.
template <class T>
struct Heads {
  T* data;
  int64_t batch_stride, stride;  // from sample to sample, and from token to token
  int dim;
  bool packed;

  __device__ HeadRows<T> rows(int64_t b, int head) const {
    return {data + b * batch_stride + head * dim, stride, dim, packed};
  }
};

/// The first `count` rows to shared memory; the rest of the tile becomes zero.
template <int kDim, class T>
__device__ void load_tile(HeadRows<const T> rows, int count, float* tile) {
  using Tile = FlashTile<kDim>;
  if (rows.packed) {
    constexpr int kPack = Pack<T>::kSize, kPacks = kDim / kPack;
    for (int i = threadIdx.x; i < Tile::kTile * kPacks; i += kFlashThreads) {
      const int row = i / kPacks, d = i % kPacks * kPack;
      Pack<T> pack;
#pragma unroll
      for (int e = 0; e < kPack; ++e) pack.v[e] = from_float<T>(0.0f);
      if (row < count && d < rows.dim) pack = load_pack(rows.data + row * rows.stride + d);
#pragma unroll
      for (int e = 0; e < kPack; e += 4)
        *reinterpret_cast<float4*>(tile + row * Tile::kStride + d + e) = make_float4(
            to_float(pack.v[e]), to_float(pack.v[e + 1]), to_float(pack.v[e + 2]), to_float(pack.v[e + 3]));
    }
  } else {
    for (int i = threadIdx.x; i < Tile::kTile * kDim; i += kFlashThreads) {
      const int row = i / kDim, d = i % kDim;
      tile[row * Tile::kStride + d] =
          row < count && d < rows.dim ? to_float(rows.data[row * rows.stride + d]) : 0.0f;
    }
  }
}

__device__ inline float4 load4(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}

/// s[i][j] = left[ty * kPatch + i] . right[tx + kSide * j]
template <int kDim, int kPatch>
__device__ void multiply_rows(const float* left, const float* right, float (&s)[kPatch][kPatch]) {
  constexpr int kStride = FlashTile<kDim>::kStride;
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
#pragma unroll
  for (int i = 0; i < kPatch; ++i)
#pragma unroll
    for (int j = 0; j < kPatch; ++j) s[i][j] = 0.0f;
#pragma unroll 4
  for (int d = 0; d < kDim; d += 4) {
    float4 a[kPatch], b[kPatch];
#pragma unroll
    for (int i = 0; i < kPatch; ++i) a[i] = load4(left + (ty * kPatch + i) * kStride + d);
#pragma unroll
    for (int j = 0; j < kPatch; ++j) b[j] = load4(right + (tx + kSide * j) * kStride + d);
#pragma unroll
    for (int i = 0; i < kPatch; ++i)
#pragma unroll
      for (int j = 0; j < kPatch; ++j)
        s[i][j] += a[i].x * b[j].x + a[i].y * b[j].y + a[i].z * b[j].z + a[i].w * b[j].w;
  }
}

/// A thread's share of [kTile, kDim] sums: rows ty * kPatch + i, elements 4 * (tx + kSide * chunk) + e.
template <int kDim>
struct RowSums {
  using Tile = FlashTile<kDim>;
  float v[Tile::kPatch][Tile::kChunks][4] = {};

  /// += weights . rows, weights [kTile, kTile] being written by this half of a warp for its rows.
  __device__ void add(const float* weights, const float* rows) {
    const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
    for (int k = 0; k < Tile::kTile; k += 4) {
      float w[Tile::kPatch][4];
#pragma unroll
      for (int i = 0; i < Tile::kPatch; ++i) {
        const float4 four = load4(weights + (ty * Tile::kPatch + i) * Tile::kWeightStride + k);
        w[i][0] = four.x, w[i][1] = four.y, w[i][2] = four.z, w[i][3] = four.w;
      }
#pragma unroll
      for (int step = 0; step < 4; ++step)
#pragma unroll
        for (int c = 0; c < Tile::kChunks; ++c) {
          const float4 x = load4(rows + (k + step) * Tile::kStride + 4 * (tx + kSide * c));
#pragma unroll
          for (int i = 0; i < Tile::kPatch; ++i) {
            v[i][c][0] += w[i][step] * x.x;
            v[i][c][1] += w[i][step] * x.y;
            v[i][c][2] += w[i][step] * x.z;
            v[i][c][3] += w[i][step] * x.w;
          }
        }
    }
  }
  /// rows[...] = or += factors[i] * sums, for the first `count` rows.
  template <bool kAdd = false, class T>
  __device__ void store(HeadRows<T> rows, int count, const float (&factors)[Tile::kPatch]) const {
    const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
#pragma unroll
    for (int i = 0; i < Tile::kPatch; ++i) {
      const int row = ty * Tile::kPatch + i;
      if (row >= count) continue;
#pragma unroll
      for (int c = 0; c < Tile::kChunks; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int d = 4 * (tx + kSide * c) + e;
          if (d >= rows.dim) continue;
          T& to = rows.data[row * rows.stride + d];
          const float x = factors[i] * v[i][c][e];
          to = from_float<T>(kAdd ? to_float(to) + x : x);
        }
    }
  }
};

/// What a thread wrote of [kTile, kTile] weights: s[i][j] at row ty * kPatch + i, column tx + kSide * j.
/// Between barriers of the half warps that share the rows.
template <int kDim, int kPatch>
__device__ void store_weights(const float (&s)[kPatch][kPatch], float* weights) {
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kPatch; ++i)
#pragma unroll
    for (int j = 0; j < kPatch; ++j)
      weights[(ty * kPatch + i) * FlashTile<kDim>::kWeightStride + tx + kSide * j] = s[i][j];
  __syncwarp();
}

/// What turns a product q k into a score whose exponential is 2^score: 1 / sqrt(D), and log2(e).
inline float score_factor(int64_t head_dim) {
  return static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(head_dim)));
}

/// Lets `kernel` use `bytes` of shared memory and starts it. ConfigError where a multiprocessor has less.
template <class... Parameters, class... Arguments>
void launch_flash(const char* name, const Context& ctx, void (*kernel)(Parameters...), int64_t blocks,
                  size_t bytes, const Arguments&... arguments) {
  const auto room = static_cast<size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  if (bytes > room)
    throw ConfigError(std::string(name) + ": Trireme's own kernels need " + std::to_string(bytes >> 10) +
                      " KiB of shared memory for heads this wide, and this GPU has " + std::to_string(room >> 10) +
                      "; set precision.compute to bf16 or f16, which cuDNN computes, or choose heads of up to 64 elements");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        name);
  kernel<<<static_cast<unsigned>(blocks), kFlashThreads, bytes, raw_stream(ctx)>>>(arguments...);
  check_launch(name);
}

}  // namespace trireme::cuda
