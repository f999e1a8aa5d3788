// The kernels of layer_norm. A warp takes a row and keeps it in registers, so that memory is read once; widths that do not
// fit, or are not whole packs, take a block a row.
#include "core/backend/cuda/device.cuh"
#include "core/backend/cuda/kernels.h"
#include "core/ops/layer_norm.h"

namespace trireme::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kMaxParts = 132 * 3;  // partial sums of dw and db

template <class T>
struct ForwardArgs {
  int64_t rows;
  int width;
  const T *x, *delta, *w, *b;  // delta, b: perhaps null
  float eps;
  T *residual, *y;  // residual is written where there is a delta
  float *mean, *rstd;
};

template <class T>
struct BackwardArgs {
  int64_t rows;
  int width;
  const T *x, *w, *dresidual, *dy;  // dresidual: perhaps null
  const float *mean, *rstd;
  T* dx;         // may be dresidual
  float* parts;  // [blocks, 2, width]
};

/// y of one pack: (v - mean) rstd w + b.
template <class T>
__device__ inline Pack<T> normalized(const float* v, float mean, float rstd, const T* w, const T* b) {
  const Pack<T> pw = load_pack(w);
  Pack<T> pb, out;
  if (b) pb = load_pack(b);
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i)
    out.v[i] = from_float<T>((v[i] - mean) * rstd * to_float(pw.v[i]) + (b ? to_float(pb.v[i]) : 0.0f));
  return out;
}

template <class T, int K>
__global__ void __launch_bounds__(kThreads) forward_kernel(ForwardArgs<T> a) {
  constexpr int kSize = Pack<T>::kSize;
  const int lane = threadIdx.x % kWarp, packs = a.width / kSize;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= a.rows) return;
  const int64_t at = row * a.width;
  float v[K][kSize];
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int p = lane + k * kWarp;
    if (p >= packs) continue;
    Pack<T> x = load_pack(a.x + at + p * kSize);
    if (a.delta) {
      const Pack<T> d = load_pack(a.delta + at + p * kSize);
#pragma unroll
      for (int i = 0; i < kSize; ++i) x.v[i] = from_float<T>(to_float(x.v[i]) + to_float(d.v[i]));
      store_pack(a.residual + at + p * kSize, x);
    }
#pragma unroll
    for (int i = 0; i < kSize; ++i) sum += v[k][i] = to_float(x.v[i]);
  }
  const float mean = warp_sum(sum) / static_cast<float>(a.width);
  float squares = 0.0f;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (lane + k * kWarp >= packs) continue;
#pragma unroll
    for (int i = 0; i < kSize; ++i) squares += (v[k][i] - mean) * (v[k][i] - mean);
  }
  const float rstd = rsqrtf(warp_sum(squares) / static_cast<float>(a.width) + a.eps);
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int p = lane + k * kWarp;
    if (p < packs) store_pack(a.y + at + p * kSize, normalized(v[k], mean, rstd, a.w + p * kSize, a.b ? a.b + p * kSize : nullptr));
  }
  if (lane == 0) {
    a.mean[row] = mean;
    a.rstd[row] = rstd;
  }
}

/// A block a row, element by element.
template <class T>
__global__ void __launch_bounds__(kThreads) forward_block_kernel(ForwardArgs<T> a) {
  __shared__ float shared[kWarps];
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const int64_t at = row * a.width;
    const T* source = a.delta ? a.residual : a.x;
    float sum = 0.0f;
    for (int c = threadIdx.x; c < a.width; c += kThreads) {
      if (a.delta) a.residual[at + c] = from_float<T>(to_float(a.x[at + c]) + to_float(a.delta[at + c]));
      sum += to_float(source[at + c]);
    }
    const float mean = block_sum(sum, shared) / static_cast<float>(a.width);
    float squares = 0.0f;
    for (int c = threadIdx.x; c < a.width; c += kThreads) {
      const float d = to_float(source[at + c]) - mean;
      squares += d * d;
    }
    const float rstd = rsqrtf(block_sum(squares, shared) / static_cast<float>(a.width) + a.eps);
    for (int c = threadIdx.x; c < a.width; c += kThreads)
      a.y[at + c] = from_float<T>((to_float(source[at + c]) - mean) * rstd * to_float(a.w[c]) + (a.b ? to_float(a.b[c]) : 0.0f));
    if (threadIdx.x == 0) {
      a.mean[row] = mean;
      a.rstd[row] = rstd;
    }
  }
}

/// dx = rstd (dxhat - mean(dxhat) - xhat mean(dxhat xhat)) (+ dresidual), with dxhat = dy w. Each lane adds up dw and db of
/// its columns over the rows of its warp; the block's sum is parts[block].
template <class T, int K>
__global__ void __launch_bounds__(kThreads) backward_kernel(BackwardArgs<T> a) {
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
  for (int c = threadIdx.x; c < 2 * a.width; c += kThreads) a.parts[int64_t{blockIdx.x} * 2 * a.width + c] = sums[c];
}

/// A block a row, element by element; a thread adds up the same columns of every row, in parts[block] itself.
template <class T>
__global__ void __launch_bounds__(kThreads) backward_block_kernel(BackwardArgs<T> a) {
  __shared__ float shared[kWarps];
  float* dw = a.parts + int64_t{blockIdx.x} * 2 * a.width;
  float* db = dw + a.width;
  for (int c = threadIdx.x; c < a.width; c += kThreads) dw[c] = db[c] = 0.0f;
  const float inverse_width = 1.0f / static_cast<float>(a.width);
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const int64_t at = row * a.width;
    const float mean = a.mean[row], rstd = a.rstd[row];
    float sum = 0.0f, sum_xhat = 0.0f;
    for (int c = threadIdx.x; c < a.width; c += kThreads) {
      const float xhat = (to_float(a.x[at + c]) - mean) * rstd, d = to_float(a.dy[at + c]), dxhat = d * to_float(a.w[c]);
      sum += dxhat;
      sum_xhat += dxhat * xhat;
      dw[c] += d * xhat;
      db[c] += d;
    }
    sum = block_sum(sum, shared) * inverse_width;
    sum_xhat = block_sum(sum_xhat, shared) * inverse_width;
    for (int c = threadIdx.x; c < a.width; c += kThreads) {
      const float xhat = (to_float(a.x[at + c]) - mean) * rstd, dxhat = to_float(a.dy[at + c]) * to_float(a.w[c]);
      const float r = a.dresidual ? to_float(a.dresidual[at + c]) : 0.0f;
      a.dx[at + c] = from_float<T>(rstd * (dxhat - sum - xhat * sum_xhat) + r);
    }
  }
}

/// out[c] = the sum of parts[i][c] over i, in an order of its own that is always the same.
constexpr int kSumRows = 8;
__global__ void __launch_bounds__(kSumRows* kWarp) sum_parts_kernel(int count, int columns, const float* parts, float* out) {
  __shared__ float shared[kSumRows][kWarp];
  const int c = blockIdx.x * kWarp + threadIdx.x;
  float sum = 0.0f;
  if (c < columns)
    for (int i = threadIdx.y; i < count; i += kSumRows) sum += parts[int64_t{i} * columns + c];
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= columns) return;
  for (int i = 1; i < kSumRows; ++i) sum += shared[i][threadIdx.x];
  out[c] = sum;
}

/// f(K) with K, the packs of a lane, as a constant; false when a warp can't take such a row.
template <class T, class F>
bool with_packs(int64_t width, const F& f) {
  if (width % Pack<T>::kSize != 0) return false;
  switch (ceil_div(width / Pack<T>::kSize, kWarp)) {
    case 1: return f(std::integral_constant<int, 1>{}), true;
    case 2: return f(std::integral_constant<int, 2>{}), true;
    case 3: return f(std::integral_constant<int, 3>{}), true;
    case 4: return f(std::integral_constant<int, 4>{}), true;
    case 5: return f(std::integral_constant<int, 5>{}), true;
    case 6: return f(std::integral_constant<int, 6>{}), true;
    case 7: return f(std::integral_constant<int, 7>{}), true;
    case 8: return f(std::integral_constant<int, 8>{}), true;
    default: return false;
  }
}

bool all_aligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* p) { return is_aligned(p); });
}

void layer_norm_forward(Context& ctx, const Tensor& x, const Tensor& delta, const Tensor& w, const Tensor& b, float eps,
                        Tensor& residual, Tensor& y, Tensor& mean, Tensor& rstd) {
  if (x.numel() == 0) return;
  dispatch_float("layer_norm", x.dtype(), [&](auto type) {
    using T = decltype(type);
    const ForwardArgs<T> a{x.dim(0), static_cast<int>(x.dim(1)), elements<T>(x), elements<T>(delta), elements<T>(w), elements<T>(b),
                           eps, delta.defined() ? elements<T>(residual) : nullptr, elements<T>(y), elements<float>(mean),
                           elements<float>(rstd)};
    const auto stream = raw_stream(ctx);
    const bool warps = all_aligned({a.x, a.delta, a.w, a.b, a.residual, a.y}) && with_packs<T>(a.width, [&](auto k) {
                         forward_kernel<T, k><<<static_cast<int>(ceil_div(a.rows, kWarps)), kThreads, 0, stream>>>(a);
                       });
    if (!warps) forward_block_kernel<<<grid_size(a.rows, 1), kThreads, 0, stream>>>(a);
    check_launch("layer_norm");
  });
}

void layer_norm_backward(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& mean, const Tensor& rstd,
                         const Tensor& dresidual, const Tensor& dy, Tensor& dx, Tensor& dwb) {
  const int width = static_cast<int>(x.dim(1));
  if (x.numel() == 0) return ctx.backend->fill_zero(dwb.raw(), dwb.bytes(), *ctx.stream);
  const int blocks = grid_size(x.dim(0), kWarps, kMaxParts);
  const Tensor parts = ctx.empty({blocks, 2, width}, DType::f32, MemoryClass::workspace);
  const auto stream = raw_stream(ctx);
  dispatch_float("layer_norm backward", x.dtype(), [&](auto type) {
    using T = decltype(type);
    const BackwardArgs<T> a{x.dim(0), width, elements<T>(x), elements<T>(w), elements<T>(dresidual), elements<T>(dy),
                            elements<float>(mean), elements<float>(rstd), elements<T>(dx), elements<float>(parts)};
    const bool warps = all_aligned({a.x, a.w, a.dresidual, a.dy, a.dx}) && with_packs<T>(width, [&](auto k) {
                         backward_kernel<T, k><<<blocks, kThreads, 2 * width * sizeof(float), stream>>>(a);
                       });
    if (!warps) backward_block_kernel<<<blocks, kThreads, 0, stream>>>(a);
    check_launch("layer_norm backward");
  });
  sum_parts_kernel<<<static_cast<int>(ceil_div(2 * width, kWarp)), dim3(kWarp, kSumRows), 0, stream>>>(
      blocks, 2 * width, elements<float>(parts), elements<float>(dwb));
  check_launch("layer_norm backward");
}

}  // namespace

void add_layer_norm_kernels(Backend& backend) {
  backend.add_kernel<LayerNormForward>(&layer_norm_forward);
  backend.add_kernel<LayerNormBackward>(&layer_norm_backward);
}

}  // namespace trireme::cuda
