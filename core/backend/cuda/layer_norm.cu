// layer_norm forward. A warp takes a row and keeps it in registers, so that memory is read once; widths that do not
// fit, or are not whole packs, take a block a row.
#include "core/backend/cuda/device.cuh"
#include "core/backend/cuda/kernels.h"
#include "core/ops/layer_norm.h"

namespace trireme::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;

template <class T>
struct ForwardArgs {
  int64_t rows;
  int width;
  const T *x, *delta, *w, *b;  // delta, b: perhaps null
  float eps;
  T *residual, *y;  // residual is written where there is a delta
  float *mean, *rstd;
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

}  // namespace

void add_layer_norm_kernels(Backend& backend) {
  backend.add_kernel<LayerNormForward>(&layer_norm_forward);
  add_layer_norm_backward(backend);
}

}  // namespace trireme::cuda
