// What the attention kernels are made of: tiles of one head's vectors packed as f32, products of such tiles
// with the result held in registers, and the causal mask.
//
// Score tiles are kept transposed, [keys, queries]: a vector then holds one key's scores for neighbouring
// queries, and the softmax over keys needs no sum across a vector.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/backend/cpu/attention_simd.h"

namespace trireme::cpu {

inline constexpr int64_t kRowBlock = kLanes >= 16 ? 8 : 4;  // a product's block in registers: rows
inline constexpr int64_t kColumnBlock = 2 * kLanes;         // and columns
inline constexpr int64_t kKeyTile = 64;                     // keys a step
static_assert(kKeyTile % kRowBlock == 0 && kLanes % kRowBlock == 0);

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// A row-major matrix of floats in scratch memory.
struct Tile {
  float* data = nullptr;
  int64_t stride = 0;  // elements from row to row

  Tile at(int64_t row, int64_t column) const { return {data + row * stride + column, stride}; }
  float* row(int64_t i) const { return data + i * stride; }
};

/// The vectors of one head for consecutive tokens, inside a packed tensor.
template <class T>
struct HeadRows {
  T* data = nullptr;
  int64_t stride = 0;  // elements from token to token
  int64_t width = 0;   // head_dim

  HeadRows from(int64_t token) const { return {data + token * stride, stride, width}; }
  T* row(int64_t token) const { return data + token * stride; }
};

/// Where the heads of a tensor's tokens lie: `width` elements each, side by side. Strides count elements.
template <class T>
struct Heads {
  T* data = nullptr;
  int64_t batch_stride = 0, stride = 0;  // from sample to sample, and from token to token
  int64_t width = 0;

  HeadRows<T> rows(int64_t b, int64_t head) const {
    return {data + b * batch_stride + head * width, stride, width};
  }
};

/// to[i] = from[i] for `count` rows; the rest of `to`, up to padded_count x padded_width, becomes zero.
template <class T>
void pack_rows(HeadRows<const T> from, int64_t count, int64_t padded_count, int64_t padded_width, Tile to) {
  for (int64_t i = 0; i < count; ++i) {
    const T* x = from.row(i);
    float* y = to.row(i);
    int64_t d = 0;
    for (; d + kLanes <= from.width; d += kLanes) store(y + d, load(x + d));
    for (; d < from.width; ++d) y[d] = static_cast<float>(x[d]);
    std::fill(y + d, y + padded_width, 0.0f);
  }
  for (int64_t i = count; i < padded_count; ++i) std::fill(to.row(i), to.row(i) + padded_width, 0.0f);
}

/// The rows as a tile that is only read: where they lie if they are f32 and need no padding, else packed in
/// `scratch`.
template <class T>
Tile as_tile(HeadRows<const T> from, int64_t count, int64_t padded_count, int64_t padded_width,
             Tile scratch) {
  if constexpr (std::is_same_v<T, float>)
    if (count == padded_count && from.width == padded_width)
      return {const_cast<float*>(from.data), from.stride};
  pack_rows(from, count, padded_count, padded_width, scratch);
  return scratch;
}

/// Asks for rows [begin, end) ahead of their use: a head's rows lie apart, which hardware does not foresee.
template <class T>
void prefetch_rows(HeadRows<const T> rows, int64_t begin, int64_t end) {
  constexpr int64_t kCacheLine = 64 / sizeof(T);
  for (int64_t i = begin; i < end; ++i)
    for (int64_t d = 0; d < rows.width; d += kCacheLine) __builtin_prefetch(rows.row(i) + d, 0, 2);
}

enum class Result : bool { write, add };

/// to[i] = or += factor * from[i] for `count` rows.
template <Result kResult = Result::write, class T>
void unpack_rows(Tile from, int64_t count, float factor, HeadRows<T> to) {
  constexpr bool kAdd = kResult == Result::add;
  for (int64_t i = 0; i < count; ++i) {
    const float* x = from.row(i);
    T* y = to.row(i);
    int64_t d = 0;
    for (; d + kLanes <= to.width; d += kLanes)
      store(y + d, kAdd ? load(y + d) + load(x + d) * factor : load(x + d) * factor);
    for (; d < to.width; ++d)
      y[d] = static_cast<T>(kAdd ? static_cast<float>(y[d]) + x[d] * factor : x[d] * factor);
  }
}

inline void fill_zero(Tile t, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) std::fill(t.row(i), t.row(i) + columns, 0.0f);
}

/// to = factor * from^T. Both sizes are multiples of kLanes.
inline void transpose(Tile from, int64_t rows, int64_t columns, float factor, Tile to) {
  for (int64_t i = 0; i < rows; i += kLanes)
    for (int64_t j = 0; j < columns; j += kLanes)
      transpose_block(from.row(i) + j, from.stride, factor, to.row(j) + i, to.stride);
}

enum class Left : bool { plain, transposed };

/// One block in registers: c[kRowBlock, kVectors * kLanes] = or += a b, a being [kRowBlock, depth], or its
/// transpose when kLeft says so.
template <Left kLeft, Result kResult, int kVectors>
[[gnu::noinline]] void multiply_block(int64_t depth, Tile a, Tile b, Tile c) {
  Vec sums[kRowBlock][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec right[kVectors];
    for (int v = 0; v < kVectors; ++v) right[v] = load(b.data + k * b.stride + v * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < kRowBlock; ++m) {
      const float left = kLeft == Left::transposed ? a.data[k * a.stride + m] : a.data[m * a.stride + k];
      for (int v = 0; v < kVectors; ++v) sums[m][v] += left * right[v];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRowBlock; ++m)
    for (int v = 0; v < kVectors; ++v) {
      float* to = c.data + m * c.stride + v * kLanes;
      store(to, kResult == Result::add ? load(to) + sums[m][v] : sums[m][v]);
    }
}

/// c[rows, columns] = or += a b over `depth`. rows is a multiple of kRowBlock, columns of kLanes.
template <Left kLeft, Result kResult>
void multiply(int64_t rows, int64_t columns, int64_t depth, Tile a, Tile b, Tile c) {
  for (int64_t j = 0; j < columns; j += kColumnBlock)
    for (int64_t i = 0; i < rows; i += kRowBlock) {
      const Tile left = kLeft == Left::transposed ? a.at(0, i) : a.at(i, 0);
      if (columns - j >= kColumnBlock)
        multiply_block<kLeft, kResult, 2>(depth, left, b.at(0, j), c.at(i, j));
      else
        multiply_block<kLeft, kResult, 1>(depth, left, b.at(0, j), c.at(i, j));
    }
}

/// What the queries of one column block may see of a tile of `count` keys: key r is visible to query lane j
/// when r < count, and r <= diagonal + j if causal.
struct Visibility {
  int64_t count = 0;
  int64_t diagonal = std::numeric_limits<int64_t>::max() / 2;

  /// Keys that any of the block's queries sees.
  int64_t num_keys() const { return std::clamp<int64_t>(diagonal + kColumnBlock, 0, count); }
};

/// scores [rows, kColumnBlock]: what must not be seen becomes minus infinity.
inline void mask_scores(Tile scores, int64_t rows, Visibility visible) {
  const Vec hidden = broadcast(-std::numeric_limits<float>::infinity());
  for (int64_t r = std::max<int64_t>(0, std::min(visible.count, visible.diagonal + 1)); r < rows; ++r)
    for (int v = 0; v < 2; ++v) {
      float* x = scores.row(r) + v * kLanes;
      if (r >= visible.count) {
        store(x, hidden);
      } else {
        const auto first_lane = static_cast<int32_t>(r - visible.diagonal - v * kLanes);
        store(x, lane_indices() >= first_lane ? load(x) : hidden);
      }
    }
}

/// Cuts a thread's scratch memory into tiles; without memory it only counts how much is needed.
class ScratchCarver {
 public:
  explicit ScratchCarver(float* begin = nullptr) : begin_(begin) {}
  Tile take(int64_t rows, int64_t columns) {
    const Tile tile{begin_ ? begin_ + num_floats_ : nullptr, columns};
    num_floats_ += round_up(rows * columns, 16);  // cache lines
    return tile;
  }
  int64_t num_floats() const { return num_floats_; }

 private:
  float* begin_;
  int64_t num_floats_ = 0;
};

}  // namespace trireme::cpu
