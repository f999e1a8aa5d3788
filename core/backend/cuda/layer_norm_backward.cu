// layer_norm backward. A block takes a few rows at a time, a thread the same 16 bytes of each: what it loads of all rows is
// under way at once, and its share of dw and db stays in its registers over all rows of the block. Widths that are not
// whole packs, or are too wide for a block, go element by element.
#include <initializer_list>

#include "core/backend/cuda/device.cuh"
#include "core/backend/cuda/kernels.h"
#include "core/ops/layer_norm.h"

namespace trireme::cuda {
namespace {

constexpr int kWarps = 4;           // of a block whose warps take a row each
constexpr int kWarpThreads = kWarps * kWarp;
constexpr int kMaxLanePacks = 4;    // of such a row; with more, registers run out and a block a row is faster
constexpr int kBlockThreads = 128;  // of the kernel that goes element by element
constexpr int kMaxParts = 132 * 8;  // partial sums of dw and db

template <class T>
struct BackwardArgs {
  int64_t rows;
  int width;
  const T *x, *w, *dresidual, *dy;  // dresidual: perhaps null
  const float *mean, *rstd;
  T* dx;         // may be dresidual
  float* parts;  // [blocks, 2, width]
};

/// dx = rstd (dxhat - mean(dxhat) - xhat mean(dxhat xhat)) (+ dresidual), with dxhat = dy w. kRows rows are in hand; a thread
/// has a pack of each, in whole warps; the block's dw and db are parts[block].
template <class T, int kRows, int kMaxThreads>
__global__ void __launch_bounds__(kMaxThreads, kMaxThreads <= 256 ? 3 : 1) backward_kernel(BackwardArgs<T> a) {
  constexpr int kSize = Pack<T>::kSize;
  __shared__ float2 of_warp[2][kRows][kMaxThreads / kWarp];  // sums of dxhat and of dxhat xhat; two sets take turns
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int c = threadIdx.x * kSize;
  const bool active = c < a.width;
  const float inverse_width = 1.0f / static_cast<float>(a.width);
  float dw[kSize] = {}, db[kSize] = {}, w[kSize] = {};
  if (active) {
    const Pack<T> pack = load_pack(a.w + c);
#pragma unroll
    for (int i = 0; i < kSize; ++i) w[i] = to_float(pack.v[i]);
  }
  int turn = 0;
  for (int64_t first = int64_t{blockIdx.x} * kRows; first < a.rows; first += int64_t{gridDim.x} * kRows, turn ^= 1) {
    const int rows = static_cast<int>(min(int64_t{kRows}, a.rows - first));
    Pack<T> x[kRows], dy[kRows], residual[kRows];
    float mean[kRows], rstd[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows || !active) continue;
      const int64_t at = (first + r) * a.width + c;
      x[r] = load_pack_once(a.x + at);
      dy[r] = load_pack_once(a.dy + at);
      if (a.dresidual) residual[r] = load_pack_once(a.dresidual + at);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      mean[r] = r < rows ? a.mean[first + r] : 0.0f;
      rstd[r] = r < rows ? a.rstd[first + r] : 0.0f;
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float sum = 0.0f, sum_xhat = 0.0f;
      if (r < rows && active) {
        const float shift = -mean[r] * rstd[r];
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
          const float xhat = to_float(x[r].v[i]) * rstd[r] + shift, d = to_float(dy[r].v[i]), dxhat = d * w[i];
          sum += dxhat;
          sum_xhat += dxhat * xhat;
          dw[i] += d * xhat;
          db[i] += d;
        }
      }
      sum = warp_sum(sum);
      sum_xhat = warp_sum(sum_xhat);
      if (lane == 0) of_warp[turn][r][warp] = {sum, sum_xhat};
    }
    __syncthreads();  // the other set is written only after the next one: by then all have read this one
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows || !active) continue;
      float sum = 0.0f, sum_xhat = 0.0f;
      for (int i = 0; i < warps; ++i) {
        sum += of_warp[turn][r][i].x;
        sum_xhat += of_warp[turn][r][i].y;
      }
      // The same with xhat = x rstd - mean rstd put in: dx = rstd dxhat + of_x x + constant (+ dresidual).
      const float of_x = -rstd[r] * rstd[r] * sum_xhat * inverse_width;
      const float constant = -rstd[r] * sum * inverse_width - of_x * mean[r];
      Pack<T> out;
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const float rest = of_x * to_float(x[r].v[i]) + (a.dresidual ? to_float(residual[r].v[i]) + constant : constant);
        out.v[i] = from_float<T>(rstd[r] * (to_float(dy[r].v[i]) * w[i]) + rest);
      }
      store_pack(a.dx + (first + r) * a.width + c, out);
    }
  }
  if (!active) return;
  float* part = a.parts + int64_t{blockIdx.x} * 2 * a.width;
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    part[c + i] = dw[i];
    part[a.width + c + i] = db[i];
  }
}

/// The same for narrow rows: a warp takes a row, K packs a lane, and keeps it in registers. Each lane adds up dw and db of
/// its columns over the rows of its warp; the block's sum is parts[block].
template <class T, int K>
__global__ void __launch_bounds__(kWarpThreads) backward_warp_kernel(BackwardArgs<T> a) {
  constexpr int kSize = Pack<T>::kSize;
  extern __shared__ float sums[];  // [2, width]
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, packs = a.width / kSize;
  const float inverse_width = 1.0f / static_cast<float>(a.width);
  float dw[K][kSize] = {}, db[K][kSize] = {};
  for (int64_t row = int64_t{blockIdx.x} * kWarps + warp; row < a.rows; row += int64_t{gridDim.x} * kWarps) {
    const int64_t at = row * a.width;
    const float mean = a.mean[row], rstd = a.rstd[row];
    Pack<T> x[K], dy[K];
    float sum = 0.0f, sum_xhat = 0.0f;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int p = lane + k * kWarp;
      if (p >= packs) continue;
      x[k] = load_pack_once(a.x + at + p * kSize);
      dy[k] = load_pack_once(a.dy + at + p * kSize);
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int p = lane + k * kWarp;
      if (p >= packs) continue;
      const Pack<T> w = load_pack(a.w + p * kSize);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const float xhat = (to_float(x[k].v[i]) - mean) * rstd, d = to_float(dy[k].v[i]), dxhat = d * to_float(w.v[i]);
        sum += dxhat;
        sum_xhat += dxhat * xhat;
        dw[k][i] += d * xhat;
        db[k][i] += d;
      }
    }
    sum = warp_sum(sum) * inverse_width;
    sum_xhat = warp_sum(sum_xhat) * inverse_width;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int p = lane + k * kWarp;
      if (p >= packs) continue;
      const Pack<T> w = load_pack(a.w + p * kSize);
      Pack<T> r, out;
      if (a.dresidual) r = load_pack(a.dresidual + at + p * kSize);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const float xhat = (to_float(x[k].v[i]) - mean) * rstd, dxhat = to_float(dy[k].v[i]) * to_float(w.v[i]);
        out.v[i] = from_float<T>(rstd * (dxhat - sum - xhat * sum_xhat) + (a.dresidual ? to_float(r.v[i]) : 0.0f));
      }
      store_pack(a.dx + at + p * kSize, out);
    }
  }
  // The warps one after the other, so that the order of the sum is fixed.
  for (int turn = 0; turn < kWarps; ++turn) {
    if (warp == turn) {
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const int p = lane + k * kWarp;
        if (p >= packs) continue;
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
          const int c = p * kSize + i;
          sums[c] = (turn ? sums[c] : 0.0f) + dw[k][i];
          sums[a.width + c] = (turn ? sums[a.width + c] : 0.0f) + db[k][i];
        }
      }
    }
    __syncthreads();
  }
  for (int c = threadIdx.x; c < 2 * a.width; c += kWarpThreads) a.parts[int64_t{blockIdx.x} * 2 * a.width + c] = sums[c];
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

template <class T, int kRows, int kMaxThreads>
int resident_blocks(int threads) {
  int a_multiprocessor = 0, device = 0, multiprocessors = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&a_multiprocessor, backward_kernel<T, kRows, kMaxThreads>, threads, 0),
        "occupancy of layer_norm backward");
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return std::clamp(a_multiprocessor * multiprocessors, 1, kMaxParts);
}

/// Launches the kernel that suits `a`; returns how many partial sums it leaves. `parts` gives memory for so many.
template <class T, class Parts>
int launch_backward(BackwardArgs<T> a, const Parts& parts, cudaStream_t stream) {
  bool aligned = a.width % Pack<T>::kSize == 0;
  for (const void* p : {static_cast<const void*>(a.x), static_cast<const void*>(a.w), static_cast<const void*>(a.dresidual),
                        static_cast<const void*>(a.dy), static_cast<const void*>(a.dx)})
    aligned = aligned && is_aligned(p);
  const int threads = static_cast<int>(ceil_div(a.width / Pack<T>::kSize, kWarp) * kWarp);
  if (!aligned || threads > 1024) {
    const int blocks = grid_size(a.rows, 1, kMaxParts);
    a.parts = parts(blocks);
    backward_block_kernel<<<blocks, kBlockThreads, 0, stream>>>(a);
    return blocks;
  }
  const auto launch = [&](auto rows, auto max_threads) {
    const int blocks = grid_size(a.rows, rows, resident_blocks<T, rows, max_threads>(threads));
    a.parts = parts(blocks);
    backward_kernel<T, rows, max_threads><<<blocks, threads, 0, stream>>>(a);
    return blocks;
  };
  using std::integral_constant;
  const auto launch_warps = [&](auto packs) {
    constexpr int kResident = packs > 3 || sizeof(T) == 4 ? 3 : 4;  // blocks on a multiprocessor, by their registers
    const int blocks = grid_size(a.rows, kWarps, 132 * kResident);
    a.parts = parts(blocks);
    backward_warp_kernel<T, packs><<<blocks, kWarpThreads, 2 * a.width * sizeof(float), stream>>>(a);
    return blocks;
  };
  switch (threads / kWarp) {
    case 1: return launch_warps(integral_constant<int, 1>{});
    case 2: return launch_warps(integral_constant<int, 2>{});
    case 3: return launch_warps(integral_constant<int, 3>{});
    case kMaxLanePacks: return launch_warps(integral_constant<int, kMaxLanePacks>{});
    default: break;
  }
  if (threads <= 256) return launch(integral_constant<int, 2>{}, integral_constant<int, 256>{});
  if (threads <= 512) return launch(integral_constant<int, 2>{}, integral_constant<int, 512>{});
  return launch(integral_constant<int, 1>{}, integral_constant<int, 1024>{});
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
