// Kernels that go over memory once: add, fill, scale, cast, sums of squares, dropout.
#include <cmath>

#include "core/backend/cpu/dispatch.h"
#include "core/backend/cpu/kernels.h"
#include "core/backend/cpu/parallel.h"
#include "core/ops/elementwise.h"

namespace trireme::cpu {
namespace {

/// out[i] = f(x[i])
template <class In, class Out, class F>
void map(Context& ctx, const In* x, Out* out, int64_t n, const F& f) {
  for_elements(ctx, n, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) out[i] = Out(f(static_cast<float>(x[i])));
  });
}

void add_kernel(Context& ctx, const Tensor& a, const Tensor& b, Tensor& out) {
  dispatch_float("add", a.dtype(), [&](auto type) {
    using T = decltype(type);
    const T *pa = a.data<T>(), *pb = b.data<T>();
    T* po = out.data<T>();
    for_elements(ctx, a.numel(), [&](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) po[i] = T(static_cast<float>(pa[i]) + static_cast<float>(pb[i]));
    });
  });
}

void fill_kernel(Context& ctx, float value, Tensor& out) {
  dispatch_float("fill", out.dtype(), [&](auto type) {
    using T = decltype(type);
    T* po = out.data<T>();
    const T element(value);
    for_elements(ctx, out.numel(),
                 [&](int64_t begin, int64_t end) { std::fill(po + begin, po + end, element); });
  });
}

void scale_kernel(Context& ctx, float factor, const Tensor& x, Tensor& out) {
  dispatch_float("scale", x.dtype(), [&](auto type) {
    using T = decltype(type);
    map(ctx, x.data<T>(), out.data<T>(), x.numel(), [factor](float v) { return factor * v; });
  });
}

void cast_kernel(Context& ctx, const Tensor& x, Tensor& out) {
  dispatch_float("cast", x.dtype(), [&](auto from) {
    dispatch_float("cast", out.dtype(), [&](auto to) {
      map(ctx, x.data<decltype(from)>(), out.data<decltype(to)>(), x.numel(), [](float v) { return v; });
    });
  });
}

struct SquareSum {
  double sum = 0.0;
  int64_t not_finite = 0;
};

/// In float over short runs, which are added in double: 1e-7 accurate, and vectorised.
template <class T>
SquareSum sum_squares_of(const T* x, int64_t n) {
  constexpr int64_t kRun = 1024;
  SquareSum total;
  for (int64_t begin = 0; begin < n; begin += kRun) {
    const int64_t end = std::min(n, begin + kRun);
    float sum = 0.0f;
    int32_t not_finite = 0;
#pragma omp simd reduction(+ : sum, not_finite)
    for (int64_t i = begin; i < end; ++i) {
      const float v = static_cast<float>(x[i]);
      sum += v * v;
      not_finite += !(std::fabs(v) <= std::numeric_limits<float>::max());
    }
    total.sum += static_cast<double>(sum);
    total.not_finite += not_finite;
  }
  return total;
}

void sum_squares_kernel(Context& ctx, const Tensor& x, Tensor& out) {
  constexpr int64_t kChunk = 65536;  // summed apart and added in order: the same for any number of threads
  dispatch_float("sum of squares", x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* px = x.data<T>();
    const int64_t n = x.numel(), num_chunks = (n + kChunk - 1) / kChunk;
    std::vector<SquareSum> chunks(static_cast<size_t>(num_chunks));
    const int count = num_ranges(ctx, num_chunks, 1);
    parallel_for(count, [&](int i) {
      const Range r = range_of(i, count, num_chunks);
      for (int64_t c = r.begin; c < r.end; ++c)
        chunks[static_cast<size_t>(c)] = sum_squares_of(px + c * kChunk, std::min(kChunk, n - c * kChunk));
    });
    SquareSum total;
    for (const SquareSum& c : chunks) {
      total.sum += c.sum;
      total.not_finite += c.not_finite;
    }
    out.data<float>()[0] += static_cast<float>(total.sum);
    out.data<float>()[1] += static_cast<float>(total.not_finite);
  });
}

/// The random words of elements [first, first + count), count <= kMaskRun, into `words`.
constexpr int64_t kMaskRun = 1024;
void random_words(const RandomStream& stream, int64_t first, int64_t count, uint32_t* words) {
  const int64_t first_block = first / 4, num_blocks = (first + count + 3) / 4 - first_block;
  alignas(64) uint32_t lanes[4][kMaskRun / 4 + 1];
#pragma omp simd
  for (int64_t i = 0; i < num_blocks; ++i) {
    const auto block = stream.block(static_cast<uint64_t>(first_block + i));
    for (int lane = 0; lane < 4; ++lane) lanes[lane][i] = block[lane];
  }
  const int64_t skip = first % 4;
  for (int64_t i = 0; i < count; ++i) words[i] = lanes[(i + skip) % 4][(i + skip) / 4];
}

void dropout_kernel(Context& ctx, const Tensor& x, float p, RandomStream stream, int64_t first_element,
                    Tensor& y) {
  const float keep_factor = 1.0f / (1.0f - p);
  dispatch_compute("dropout", x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* px = x.data<T>();
    T* py = y.data<T>();
    for_elements(ctx, x.numel(), [&](int64_t begin, int64_t end) {
      alignas(64) uint32_t words[kMaskRun];
      for (int64_t run = begin; run < end; run += kMaskRun) {
        const int64_t count = std::min(kMaskRun, end - run);
        random_words(stream, first_element + run, count, words);
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) {
          const float factor = to_uniform(words[i]) >= p ? keep_factor : 0.0f;
          py[run + i] = T(static_cast<float>(px[run + i]) * factor);
        }
      }
    });
  });
}

}  // namespace

void add_elementwise_kernels(Backend& backend) {
  backend.add_kernel<AddKernel>(&add_kernel);
  backend.add_kernel<FillKernel>(&fill_kernel);
  backend.add_kernel<ScaleKernel>(&scale_kernel);
  backend.add_kernel<CastKernel>(&cast_kernel);
  backend.add_kernel<SumSquaresKernel>(&sum_squares_kernel);
  backend.add_kernel<DropoutKernel>(&dropout_kernel);
}

}  // namespace trireme::cpu
