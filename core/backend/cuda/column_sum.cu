// The sum of a matrix's rows, which is the gradient of a bias: each block sums a range of rows of some columns, then a
// second kernel the blocks, so the order of the sum is fixed.
#include "core/backend/cuda/device.cuh"
#include "core/backend/cuda/matmul_kernels.h"

namespace trireme::cuda {
namespace {

constexpr int kLanes = 32;     // neighbours in a row
constexpr int kGroups = 8;     // rows that a block reads at the same time
constexpr int kThreads = kLanes * kGroups;
constexpr int kUnroll = 4;     // loads in flight a thread
constexpr int64_t kMaxParts = 256;

template <class T, int kSize>
struct Values {
  T v[kSize];
};
template <class T, int kSize>
__device__ inline Values<T, kSize> load_values(const T* from) {
  Values<T, kSize> out;
  if constexpr (kSize == 1) {
    out.v[0] = *from;
  } else {
    const Pack<T> pack = load_pack_once(from);
#pragma unroll
    for (int k = 0; k < kSize; ++k) out.v[k] = pack.v[k];
  }
  return out;
}

/// parts [gridDim.y, width]: block (x, y) sums the y-th range of rows over kLanes * kSize columns. kSize is 1, or that of
/// a pack: then width is a multiple of it and rows are aligned.
template <class T, int kSize>
__global__ void __launch_bounds__(kThreads) column_parts_kernel(int64_t rows, int64_t width, const T* x, float* parts) {
  constexpr int kColumns = kLanes * kSize;
  __shared__ float shared[kGroups][kColumns];
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  const int64_t first = int64_t{blockIdx.x} * kColumns, column = first + lane * kSize;
  const int64_t begin = rows * blockIdx.y / gridDim.y, end = rows * (blockIdx.y + 1) / gridDim.y;
  float sum[kSize] = {};
  if (column < width) {
    int64_t n = begin + group;
    for (; n + (kUnroll - 1) * kGroups < end; n += kUnroll * kGroups) {
      Values<T, kSize> in[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) in[u] = load_values<T, kSize>(x + (n + u * kGroups) * width + column);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
#pragma unroll
        for (int k = 0; k < kSize; ++k) sum[k] += to_float(in[u].v[k]);
    }
    for (; n < end; n += kGroups) {
      const Values<T, kSize> in = load_values<T, kSize>(x + n * width + column);
#pragma unroll
      for (int k = 0; k < kSize; ++k) sum[k] += to_float(in.v[k]);
    }
  }
#pragma unroll
  for (int k = 0; k < kSize; ++k) shared[group][lane * kSize + k] = sum[k];
  __syncthreads();
  for (int c = threadIdx.x; c < kColumns; c += kThreads) {
    if (first + c >= width) break;
    float total = 0.0f;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) total += shared[g][c];
    parts[blockIdx.y * width + first + c] = total;
  }
}

/// sums (+)= the sum over the parts; a block has kLanes columns.
__global__ void __launch_bounds__(kThreads) add_parts_kernel(int count, int64_t width, const float* parts, bool accumulate,
                                                             float* sums) {
  __shared__ float shared[kGroups][kLanes];
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  const int64_t column = int64_t{blockIdx.x} * kLanes + lane;
  float sum = 0.0f;
  if (column < width) {
#pragma unroll 4
    for (int part = group; part < count; part += kGroups) sum += parts[part * width + column];
  }
  shared[group][lane] = sum;
  __syncthreads();
  if (group > 0 || column >= width) return;
  float total = 0.0f;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) total += shared[g][lane];
  sums[column] = accumulate ? sums[column] + total : total;
}

template <class T, int kSize>
void launch_column_sum(Context& ctx, const Tensor& x, bool accumulate, Tensor& sums) {
  const int64_t rows = x.dim(0), width = x.dim(1);
  const int64_t column_blocks = ceil_div(width, kLanes * kSize);
  // So many parts as fill the GPU once, each worth at least two rounds of loads.
  const int64_t most = std::clamp<int64_t>(ceil_div(rows, 2 * kUnroll * kGroups), 1, kMaxParts);
  const int64_t count = std::clamp<int64_t>(132 * 8 / column_blocks, 1, most);
  const Tensor parts = ctx.empty({count, width}, DType::f32, MemoryClass::workspace);
  const dim3 grid(static_cast<unsigned>(column_blocks), static_cast<unsigned>(count));
  column_parts_kernel<T, kSize><<<grid, kThreads, 0, raw_stream(ctx)>>>(rows, width, elements<T>(x), elements<float>(parts));
  check_launch("column sum");
  add_parts_kernel<<<static_cast<unsigned>(ceil_div(width, kLanes)), kThreads, 0, raw_stream(ctx)>>>(
      static_cast<int>(count), width, elements<float>(parts), accumulate, elements<float>(sums));
  check_launch("column sum");
}

}  // namespace

void column_sum(Context& ctx, const Tensor& x, bool accumulate, Tensor& sums) {
  if (x.dim(1) == 0) return;
  dispatch_float("column sum", x.dtype(), [&](auto type) {
    using T = decltype(type);
    if (is_aligned(x.raw()) && x.dim(1) % Pack<T>::kSize == 0)
      launch_column_sum<T, Pack<T>::kSize>(ctx, x, accumulate, sums);
    else
      launch_column_sum<T, 1>(ctx, x, accumulate, sums);
  });
}

}  // namespace trireme::cuda
