// layer_norm backward. A block takes a few rows at a time, a thread the same 16 bytes of each: what it loads of all rows is
// under way at once, and its share of dw and db stays in its registers over all rows of the block. Widths that are not
// whole packs, or are too wide for a block, go element by element.
#include <initializer_list>

#include "core/backend/cuda/device.cuh"
#include "core/backend/cuda/kernels.h"
#include "core/ops/layer_norm.h"

namespace trireme::cuda {
namespace {

constexpr int kBlockThreads = 128;  // of the kernel that goes element by element
constexpr int kMaxParts = 132 * 8;  // partial sums of dw and db
constexpr int kMaxThreads = 1024;   // of the other one
constexpr int kMostSharedBytes = 99 << 10;  // that a block of it takes

template <class T>
struct BackwardArgs {
  int64_t rows;
  int width;
  const T *x, *w, *dresidual, *dy;  // dresidual: perhaps null
  const float *mean, *rstd;
  T* dx;         // may be dresidual
  float* parts;  // [blocks, 2, width]
};

/// The sum of each of N numbers over the warp: lane l has that of v[l / (32 / N)], always added in the same order. Half of
/// the numbers change places at each step, so it takes N - 1 shuffles and some, not 5 N.
template <int N>
__device__ inline float warp_sums(float (&v)[N]) {
  static_assert(N <= kWarp && kWarp % N == 0);
  int offset = kWarp / 2;
#pragma unroll
  for (int half = N / 2; half > 0; half /= 2, offset /= 2) {
    const bool upper = threadIdx.x & offset;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float send = upper ? v[i] : v[i + half], keep = upper ? v[i + half] : v[i];
      v[i] = keep + __shfl_xor_sync(0xffffffffu, send, offset);
    }
  }
  float sum = v[0];
#pragma unroll
  for (; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  return sum;
}

/// dx = rstd (dxhat - mean(dxhat) - xhat mean(dxhat xhat)) (+ dresidual), with dxhat = dy w. A block has kRows rows in hand
/// and the next ones on their way; a thread has the same pack of each. The block's dw and db are parts[block].
template <class T, int kRows, int kMaxThreads, int kBlocksOfSm>
__global__ void __launch_bounds__(kMaxThreads, kBlocksOfSm) backward_kernel(BackwardArgs<T> a) {
  constexpr int kSize = Pack<T>::kSize, kSums = 2 * kRows, kMaxWarps = (kMaxThreads / kWarp + 3) / 4 * 4;
  extern __shared__ uint4 ahead[];  // [2 steps][kRows][x, dy, dresidual][threads]
  __shared__ __align__(16) float of_warp[2][kSums][kMaxWarps];  // a row's sums of dxhat and dxhat xhat; two sets take turns
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int c = threadIdx.x * kSize;
  const bool active = c < a.width;
  const float inverse_width = 1.0f / static_cast<float>(a.width);
  const int64_t stride = int64_t{gridDim.x} * kRows;
  for (int i = threadIdx.x; i < 2 * kSums * kMaxWarps; i += blockDim.x) (&of_warp[0][0][0])[i] = 0.0f;
  float dw[kSize] = {}, db[kSize] = {}, w[kSize] = {};
  if (active) {
    const Pack<T> pack = load_pack(a.w + c);
#pragma unroll
    for (int i = 0; i < kSize; ++i) w[i] = to_float(pack.v[i]);
  }
  const auto slot = [&](int step, int row, int which) {
    return ahead + ((step * kRows + row) * 3 + which) * blockDim.x + threadIdx.x;
  };
  const auto begin_load = [&](int64_t first, int step) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (first + r >= a.rows || !active) continue;
      const int64_t at = (first + r) * a.width + c;
      load_ahead(slot(step, r, 0), a.x + at);
      load_ahead(slot(step, r, 1), a.dy + at);
      if (a.dresidual) load_ahead(slot(step, r, 2), a.dresidual + at);
    }
    end_loads();
  };
  const auto read = [&](int step, int row, int which) {
    Pack<T> pack;
    *reinterpret_cast<uint4*>(&pack) = *slot(step, row, which);
    return pack;
  };
  float next_mean[kRows], next_rstd[kRows];
  const auto load_statistics = [&](int64_t first) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      next_mean[r] = first + r < a.rows ? a.mean[first + r] : 0.0f;
      next_rstd[r] = first + r < a.rows ? a.rstd[first + r] : 0.0f;
    }
  };
  int64_t first = int64_t{blockIdx.x} * kRows;
  begin_load(first, 0);
  load_statistics(first);
  __syncthreads();
  for (int step = 0; first < a.rows; first += stride, step ^= 1) {
    const int rows = static_cast<int>(min(int64_t{kRows}, a.rows - first));
    begin_load(first + stride, step ^ 1);
    float mean[kRows], rstd[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) mean[r] = next_mean[r], rstd[r] = next_rstd[r];
    load_statistics(first + stride);
    wait_for_loads<1>();
    Pack<T> x[kRows], dy[kRows];
    float sums[kSums] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows || !active) continue;
      x[r] = read(step, r, 0);
      dy[r] = read(step, r, 1);
      const float shift = -mean[r] * rstd[r];
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const float xhat = to_float(x[r].v[i]) * rstd[r] + shift, d = to_float(dy[r].v[i]), dxhat = d * w[i];
        sums[2 * r] += dxhat;
        sums[2 * r + 1] += dxhat * xhat;
        dw[i] += d * xhat;
        db[i] += d;
      }
    }
    const float sum = warp_sums(sums);
    if (lane % (kWarp / kSums) == 0) of_warp[step][lane / (kWarp / kSums)][warp] = sum;
    __syncthreads();  // the other set is written only after the next one: by then all have read this one
    const auto total = [&](int i) {
      float4 four = *reinterpret_cast<const float4*>(&of_warp[step][i][0]);
      float all = (four.x + four.y) + (four.z + four.w);
      for (int of = 4; of < warps; of += 4) {
        four = *reinterpret_cast<const float4*>(&of_warp[step][i][of]);
        all += (four.x + four.y) + (four.z + four.w);
      }
      return all;
    };
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows || !active) continue;
      // The same with xhat = x rstd - mean rstd put in: dx = rstd dxhat + of_x x + constant (+ dresidual).
      const float of_x = -rstd[r] * rstd[r] * total(2 * r + 1) * inverse_width;
      const float constant = -rstd[r] * total(2 * r) * inverse_width - of_x * mean[r];
      Pack<T> residual, out;
      if (a.dresidual) residual = read(step, r, 2);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const float rest = of_x * to_float(x[r].v[i]) + (a.dresidual ? to_float(residual.v[i]) + constant : constant);
        out.v[i] = from_float<T>(rstd[r] * (to_float(dy[r].v[i]) * w[i]) + rest);
      }
      store_pack(a.dx + (first + r) * a.width + c, out);
    }
  }
  wait_for_loads<0>();
  if (!active) return;
  float* part = a.parts + int64_t{blockIdx.x} * 2 * a.width;
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    part[c + i] = dw[i];
    part[a.width + c + i] = db[i];
  }
}

/// A block a row, element by element; a thread adds up the same columns of every row, in parts[block] itself.
template <class T>
__global__ void __launch_bounds__(kBlockThreads) backward_block_kernel(BackwardArgs<T> a) {
  __shared__ float shared[kBlockThreads / kWarp];
  float* dw = a.parts + int64_t{blockIdx.x} * 2 * a.width;
  float* db = dw + a.width;
  for (int c = threadIdx.x; c < a.width; c += kBlockThreads) dw[c] = db[c] = 0.0f;
  const float inverse_width = 1.0f / static_cast<float>(a.width);
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const int64_t at = row * a.width;
    const float mean = a.mean[row], rstd = a.rstd[row];
    float sum = 0.0f, sum_xhat = 0.0f;
    for (int c = threadIdx.x; c < a.width; c += kBlockThreads) {
      const float xhat = (to_float(a.x[at + c]) - mean) * rstd, d = to_float(a.dy[at + c]), dxhat = d * to_float(a.w[c]);
      sum += dxhat;
      sum_xhat += dxhat * xhat;
      dw[c] += d * xhat;
      db[c] += d;
    }
    sum = block_sum(sum, shared) * inverse_width;
    sum_xhat = block_sum(sum_xhat, shared) * inverse_width;
    for (int c = threadIdx.x; c < a.width; c += kBlockThreads) {
      const float xhat = (to_float(a.x[at + c]) - mean) * rstd, dxhat = to_float(a.dy[at + c]) * to_float(a.w[c]);
      const float r = a.dresidual ? to_float(a.dresidual[at + c]) : 0.0f;
      a.dx[at + c] = from_float<T>(rstd * (dxhat - sum - xhat * sum_xhat) + r);
    }
  }
}

/// out[c] = the sum of parts[i][c] over i, in an order of its own that is always the same.
constexpr int kSumRows = 32;
__global__ void __launch_bounds__(kSumRows* kWarp) sum_parts_kernel(int count, int columns, const float* parts, float* out) {
  __shared__ float shared[kSumRows][kWarp];
  const int c = blockIdx.x * kWarp + threadIdx.x;
  float sum = 0.0f;
  if (c < columns)
#pragma unroll 8
    for (int i = threadIdx.y; i < count; i += kSumRows) sum += parts[int64_t{i} * columns + c];
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= columns) return;
  for (int i = 1; i < kSumRows; ++i) sum += shared[i][threadIdx.x];
  out[c] = sum;
}

template <class T, int kRows, int kMaxThreads, int kBlocksOfSm>
int launch_stream(BackwardArgs<T> a, const auto& parts, int threads, cudaStream_t stream) {
  const auto kernel = backward_kernel<T, kRows, kMaxThreads, kBlocksOfSm>;
  const int bytes = 2 * kRows * 3 * threads * static_cast<int>(sizeof(uint4));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "cudaFuncSetAttribute");
  int resident = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, static_cast<size_t>(bytes)),
        "occupancy of layer_norm backward");
  const int blocks = grid_size(a.rows, kRows, std::clamp(resident * device_attribute(cudaDevAttrMultiProcessorCount), 1, kMaxParts));
  a.parts = parts(blocks);
  kernel<<<blocks, threads, static_cast<size_t>(bytes), stream>>>(a);
  return blocks;
}

/// Launches the kernel that suits `a`; returns how many partial sums it leaves. `parts` gives memory for so many.
template <class T, class Parts>
int launch_backward(BackwardArgs<T> a, const Parts& parts, cudaStream_t stream) {
  bool aligned = a.width % Pack<T>::kSize == 0;
  for (const void* p : {static_cast<const void*>(a.x), static_cast<const void*>(a.w), static_cast<const void*>(a.dresidual),
                        static_cast<const void*>(a.dy), static_cast<const void*>(a.dx)})
    aligned = aligned && is_aligned(p);
  const int threads = static_cast<int>(ceil_div(a.width / Pack<T>::kSize, kWarp) * kWarp);
  const bool fits = threads <= kMaxThreads && device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) >= kMostSharedBytes;
  if (!aligned || !fits) {
    const int blocks = grid_size(a.rows, 1, kMaxParts);
    a.parts = parts(blocks);
    backward_block_kernel<<<blocks, kBlockThreads, 0, stream>>>(a);
    return blocks;
  }
  // Measured: two rows are better than one or four, two steps than three, and blocks as many as their registers leave room for.
  if (threads <= 128) return launch_stream<T, 2, 128, 5>(a, parts, threads, stream);
  if (threads <= 256) return launch_stream<T, 2, 256, 3>(a, parts, threads, stream);
  if (threads <= 512) return launch_stream<T, 2, 512, 1>(a, parts, threads, stream);
  return launch_stream<T, 1, kMaxThreads, 1>(a, parts, threads, stream);
}

void layer_norm_backward(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& mean, const Tensor& rstd,
                         const Tensor& dresidual, const Tensor& dy, Tensor& dx, Tensor& dwb) {
  const int width = static_cast<int>(x.dim(1));
  if (x.numel() == 0) return ctx.backend->fill_zero(dwb.raw(), dwb.bytes(), *ctx.stream);
  const auto stream = raw_stream(ctx);
  Tensor parts;
  int count = 0;
  dispatch_float("layer_norm backward", x.dtype(), [&](auto type) {
    using T = decltype(type);
    const BackwardArgs<T> a{x.dim(0), width, elements<T>(x), elements<T>(w), elements<T>(dresidual), elements<T>(dy),
                            elements<float>(mean), elements<float>(rstd), elements<T>(dx), nullptr};
    const auto make_parts = [&](int blocks) {
      parts = ctx.empty({blocks, 2, width}, DType::f32, MemoryClass::workspace);
      return elements<float>(parts);
    };
    count = launch_backward(a, make_parts, stream);
    check_launch("layer_norm backward");
  });
  sum_parts_kernel<<<static_cast<int>(ceil_div(2 * width, kWarp)), dim3(kWarp, kSumRows), 0, stream>>>(
      count, 2 * width, elements<float>(parts), elements<float>(dwb));
  check_launch("layer_norm backward");
}

}  // namespace

void add_layer_norm_backward(Backend& backend) { backend.add_kernel<LayerNormBackward>(&layer_norm_backward); }

}  // namespace trireme::cuda
