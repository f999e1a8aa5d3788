// Matrix products and additions of a bias for any type, size and alignment: what is left when cuBLASLt has no algorithm.
#include "core/backend/cuda/device.cuh"
#include "core/backend/cuda/product.h"
#include "core/backend/cuda/matmul_kernels.h"

namespace trireme::cuda {
namespace {

constexpr int kTile = 16;
constexpr unsigned kMaxGridY = 65535;

/// Where element (row, column) of op(matrix) lies.
struct Strides {
  int64_t row, column;
};

/// A block computes a kTile x kTile tile of c, a thread one element; tiles of rows beyond the grid's follow in turn.
template <class In, class Out>
__global__ void plain_product_kernel(int64_t m, int64_t n, int64_t k, const In* a, Strides sa, const In* b, Strides sb,
                                     bool accumulate, Out* c) {
  __shared__ float tile_a[kTile][kTile + 1], tile_b[kTile][kTile + 1];
  const int tx = threadIdx.x, ty = threadIdx.y;
  const int64_t column = int64_t{blockIdx.x} * kTile + tx;
  for (int64_t first = int64_t{blockIdx.y} * kTile; first < m; first += int64_t{gridDim.y} * kTile) {
    const int64_t row = first + ty;
    float sum = 0.0f;
    for (int64_t begin = 0; begin < k; begin += kTile) {
      tile_a[ty][tx] = row < m && begin + tx < k ? to_float(a[row * sa.row + (begin + tx) * sa.column]) : 0.0f;
      tile_b[ty][tx] = begin + ty < k && column < n ? to_float(b[(begin + ty) * sb.row + column * sb.column]) : 0.0f;
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kTile; ++i) sum += tile_a[ty][i] * tile_b[i][tx];
      __syncthreads();
    }
    if (row < m && column < n) {
      Out& out = c[row * n + column];
      out = from_float<Out>(accumulate ? to_float(out) + sum : sum);
    }
  }
}

template <class T, class Bias>
__global__ void add_bias_kernel(int64_t elements, int64_t width, const Bias* bias, T* y) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < elements; i += stride)
    y[i] = from_float<T>(to_float(y[i]) + to_float(bias[i % width]));
}

}  // namespace

void plain_product(Context& ctx, Product& p) {
  const Strides sa = p.transpose_a ? Strides{1, p.a.dim(1)} : Strides{p.a.dim(1), 1};
  const Strides sb = p.transpose_b ? Strides{1, p.b.dim(1)} : Strides{p.b.dim(1), 1};
  const dim3 grid(static_cast<unsigned>(ceil_div(p.n(), kTile)),
                  static_cast<unsigned>(std::min<int64_t>(ceil_div(p.m(), kTile), kMaxGridY)));
  dispatch_float("matrix product", p.a.dtype(), [&](auto in) {
    using In = decltype(in);
    dispatch_float("matrix product", p.c.dtype(), [&](auto out) {
      using Out = decltype(out);
      plain_product_kernel<<<grid, dim3(kTile, kTile), 0, raw_stream(ctx)>>>(
          p.m(), p.n(), p.k(), elements<In>(p.a), sa, elements<In>(p.b), sb, p.accumulate, elements<Out>(p.c));
    });
  });
  check_launch("matrix product");
}

void add_bias(Context& ctx, const Tensor& bias, Tensor& y) {
  if (y.numel() == 0) return;
  dispatch_float("bias", y.dtype(), [&](auto type) {
    using T = decltype(type);
    dispatch_float("bias", bias.dtype(), [&](auto bias_type) {
      using Bias = decltype(bias_type);
      add_bias_kernel<<<grid_size(y.numel(), 256), 256, 0, raw_stream(ctx)>>>(y.numel(), y.dim(1), elements<Bias>(bias),
                                                                             elements<T>(y));
    });
  });
  check_launch("bias");
}

}  // namespace trireme::cuda
