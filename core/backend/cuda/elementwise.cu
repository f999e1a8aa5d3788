// Kernels that go over memory once: add, fill, scale, cast, copy, sums of squares, dropout.
#include "core/backend/cuda/kernels.h"
#include "core/backend/cuda/map.cuh"
#include "core/ops/elementwise.h"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
struct Add {
  const T *a, *b;
  __device__ T one(int64_t i) const { return from_float<T>(to_float(a[i]) + to_float(b[i])); }
  __device__ Pack<T> pack(int64_t i) const {
    const Pack<T> x = load_pack(a + i), y = load_pack(b + i);
    Pack<T> out;
#pragma unroll
    for (int k = 0; k < Pack<T>::kSize; ++k) out.v[k] = from_float<T>(to_float(x.v[k]) + to_float(y.v[k]));
    return out;
  }
};

void add(Context& ctx, const Tensor& a, const Tensor& b, Tensor& out) {
  dispatch_float("add", out.dtype(), [&](auto type) {
    using T = decltype(type);
    const Add<T> f{elements<T>(a), elements<T>(b)};
    map(ctx, "add", out.numel(), elements<T>(out), is_aligned(f.a) && is_aligned(f.b), f);
  });
}

template <class T>
struct Fill {
  float value;
  __device__ T one(int64_t) const { return from_float<T>(value); }
  __device__ Pack<T> pack(int64_t i) const {
    Pack<T> out;
#pragma unroll
    for (int k = 0; k < Pack<T>::kSize; ++k) out.v[k] = one(i);
    return out;
  }
};

void fill(Context& ctx, float value, Tensor& out) {
  dispatch_float("fill", out.dtype(), [&](auto type) {
    using T = decltype(type);
    map(ctx, "fill", out.numel(), elements<T>(out), true, Fill<T>{value});
  });
}

template <class T>
struct Scale {
  const T* x;
  float factor;
  __device__ T one(int64_t i) const { return from_float<T>(factor * to_float(x[i])); }
  __device__ Pack<T> pack(int64_t i) const {
    Pack<T> out = load_pack(x + i);
#pragma unroll
    for (int k = 0; k < Pack<T>::kSize; ++k) out.v[k] = from_float<T>(factor * to_float(out.v[k]));
    return out;
  }
};

void scale(Context& ctx, float factor, const Tensor& x, Tensor& out) {
  dispatch_float("scale", out.dtype(), [&](auto type) {
    using T = decltype(type);
    map(ctx, "scale", out.numel(), elements<T>(out), is_aligned(elements<T>(x)), Scale<T>{elements<T>(x), factor});
  });
}

template <class From, class To>
struct Cast {
  const From* x;
  __device__ To one(int64_t i) const { return from_float<To>(to_float(x[i])); }
  __device__ Pack<To> pack(int64_t i) const {
    Pack<To> out;
    if constexpr (Pack<To>::kSize >= Pack<From>::kSize) {
#pragma unroll
      for (int part = 0; part < Pack<To>::kSize; part += Pack<From>::kSize) {
        const Pack<From> in = load_pack(x + i + part);
#pragma unroll
        for (int k = 0; k < Pack<From>::kSize; ++k) out.v[part + k] = from_float<To>(to_float(in.v[k]));
      }
    } else {
#pragma unroll
      for (int k = 0; k < Pack<To>::kSize; ++k) out.v[k] = one(i + k);
    }
    return out;
  }
};

void cast(Context& ctx, const Tensor& x, Tensor& out) {
  dispatch_float("cast", x.dtype(), [&](auto from) {
    using From = decltype(from);
    dispatch_float("cast", out.dtype(), [&](auto to) {
      using To = decltype(to);
      map(ctx, "cast", out.numel(), elements<To>(out), is_aligned(elements<From>(x)), Cast<From, To>{elements<From>(x)});
    });
  });
}

template <class From, class To>
__global__ void copy_columns_kernel(int64_t rows, int64_t count, const From* x, int64_t from_stride, To* y,
                                    int64_t to_stride) {
  const int64_t n = rows * count, stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += stride) {
    const int64_t row = i / count, column = i % count;
    y[row * to_stride + column] = from_float<To>(to_float(x[row * from_stride + column]));
  }
}

void copy_columns(Context& ctx, const Tensor& from, int64_t from_column, int64_t count, Tensor& to, int64_t to_column) {
  const int64_t rows = from.dim(0);
  if (rows * count == 0) return;
  dispatch_float("copy of columns", from.dtype(), [&](auto from_type) {
    using From = decltype(from_type);
    dispatch_float("copy of columns", to.dtype(), [&](auto to_type) {
      using To = decltype(to_type);
      copy_columns_kernel<<<grid_size(rows * count, kThreads), kThreads, 0, raw_stream(ctx)>>>(
          rows, count, elements<const From>(from) + from_column, from.dim(1), elements<To>(to) + to_column, to.dim(1));
      check_launch("copy of columns");
    });
  });
}

template <class T>
struct Copy {
  const T* x;
  __device__ T one(int64_t i) const { return x[i]; }
  __device__ Pack<T> pack(int64_t i) const { return load_pack(x + i); }
};

template <class T>
void copy_as(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  const Copy<T> f{static_cast<const T*>(from)};
  map(stream, "copy", static_cast<int64_t>(bytes / sizeof(T)), static_cast<T*>(to), is_aligned(f.x), f);
}

// Two kernels, so that the order of the sum is fixed: each block its part, then one block the parts.
constexpr int kMaxParts = 1024;

__device__ inline void add_square(float x, float& sum, float& not_finite) {
  sum += x * x;
  not_finite += isfinite(x) ? 0.0f : 1.0f;
}

template <class T>
__global__ void square_parts_kernel(int64_t n, const T* x, bool aligned, float2* parts) {
  __shared__ float shared[kThreads / kWarp];
  float sum = 0.0f, not_finite = 0.0f;
  constexpr int kPack = Pack<T>::kSize;
  const int64_t packs = aligned ? n / kPack : 0, stride = int64_t{gridDim.x} * blockDim.x;
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (int64_t i = thread; i < packs; i += stride) {
    const Pack<T> in = load_pack(x + i * kPack);
#pragma unroll
    for (int k = 0; k < kPack; ++k) add_square(to_float(in.v[k]), sum, not_finite);
  }
  for (int64_t i = packs * kPack + thread; i < n; i += stride) add_square(to_float(x[i]), sum, not_finite);
  sum = block_sum(sum, shared);
  not_finite = block_sum(not_finite, shared);
  if (threadIdx.x == 0) parts[blockIdx.x] = {sum, not_finite};
}

__global__ void add_parts_kernel(int count, const float2* parts, float* out) {
  __shared__ float shared[kThreads / kWarp];
  float sum = 0.0f, not_finite = 0.0f;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    sum += parts[i].x;
    not_finite += parts[i].y;
  }
  sum = block_sum(sum, shared);
  not_finite = block_sum(not_finite, shared);
  if (threadIdx.x == 0) {
    out[0] += sum;
    out[1] += not_finite;
  }
}

void sum_squares(Context& ctx, const Tensor& x, Tensor& out) {
  if (x.numel() == 0) return;
  dispatch_float("sum of squares", x.dtype(), [&](auto type) {
    using T = decltype(type);
    const int blocks = grid_size(x.numel(), int64_t{kThreads} * Pack<T>::kSize * 4, kMaxParts);
    const Tensor parts = ctx.empty({blocks, 2}, DType::f32, MemoryClass::workspace);
    square_parts_kernel<<<blocks, kThreads, 0, raw_stream(ctx)>>>(x.numel(), elements<T>(x), is_aligned(x.raw()),
                                                                 elements<float2>(parts));
    add_parts_kernel<<<1, kThreads, 0, raw_stream(ctx)>>>(blocks, elements<float2>(parts), elements<float>(out));
    check_launch("sum of squares");
  });
}

/// A block of four random numbers serves four elements in a row, counted from the start of the global batch.
template <class T>
__global__ void dropout_kernel(int64_t n, const T* x, float p, RandomStream stream, const int64_t* step, int64_t first, T* y) {
  if (step) stream.counter_high = static_cast<uint64_t>(*step);
  const float factor = 1.0f / (1.0f - p);
  const int64_t first_block = first / 4, last_block = (first + n + 3) / 4;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t b = first_block + int64_t{blockIdx.x} * blockDim.x + threadIdx.x; b < last_block; b += stride) {
    const auto bits = stream.block(static_cast<uint64_t>(b));
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int64_t i = 4 * b + k - first;
      if (i < 0 || i >= n) continue;
      y[i] = from_float<T>(to_uniform(bits[k]) >= p ? to_float(x[i]) * factor : 0.0f);
    }
  }
}

void dropout(Context& ctx, const Tensor& x, float p, RandomStream stream, const Tensor& step, int64_t first_element, Tensor& y) {
  if (x.numel() == 0) return;
  dispatch_float("dropout", x.dtype(), [&](auto type) {
    using T = decltype(type);
    dropout_kernel<<<grid_size(x.numel(), 4 * kThreads), kThreads, 0, raw_stream(ctx)>>>(
        x.numel(), elements<T>(x), p, stream, elements<int64_t>(step), first_element, elements<T>(y));
    check_launch("dropout");
  });
}

}  // namespace

void copy_on_device(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  const uintptr_t all = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) | bytes;
  if (all % sizeof(uint32_t) == 0) return copy_as<uint32_t>(to, from, bytes, stream);
  if (all % sizeof(uint16_t) == 0) return copy_as<uint16_t>(to, from, bytes, stream);
  copy_as<uint8_t>(to, from, bytes, stream);
}

void add_elementwise_kernels(Backend& backend) {
  backend.add_kernel<AddKernel>(&add);
  backend.add_kernel<FillKernel>(&fill);
  backend.add_kernel<ScaleKernel>(&scale);
  backend.add_kernel<CastKernel>(&cast);
  backend.add_kernel<CopyColumnsKernel>(&copy_columns);
  backend.add_kernel<SumSquaresKernel>(&sum_squares);
  backend.add_kernel<DropoutKernel>(&dropout);
}

}  // namespace trireme::cuda
