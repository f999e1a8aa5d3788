// Kernels that go over memory once: add, fill, scale, cast, sums of squares, dropout.
#include <array>
#include <cmath>
#include <cstring>

#include "core/backend/cpu/dispatch.h"
#include "core/backend/cpu/kernels.h"
#include "core/backend/cpu/parallel.h"
#include "core/backend/cpu/simd.h"
#include "core/ops/elementwise.h"

namespace trireme::cpu {
namespace {

/// out[i] = f(x[i])
template <class In, class Out, class F>
void map(Context& ctx, const In* x, Out* out, int64_t n, const F& f) {
  for_elements(ctx, n, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) assign(out[i], f(static_cast<float>(x[i])));
  });
}

void add_kernel(Context& ctx, const Tensor& a, const Tensor& b, Tensor& out) {
  dispatch_float("add", a.dtype(), [&](auto type) {
    using T = decltype(type);
    const T *pa = a.data<T>(), *pb = b.data<T>();
    T* po = out.data<T>();
    for_elements(ctx, a.numel(), [&](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i)
        assign(po[i], static_cast<float>(pa[i]) + static_cast<float>(pb[i]));
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

void copy_columns_kernel(Context& ctx, const Tensor& from, int64_t from_column, int64_t count, Tensor& to,
                         int64_t to_column) {
  const int64_t from_stride = from.dim(1), to_stride = to.dim(1);
  dispatch_float("copy of columns", from.dtype(), [&](auto from_type) {
    dispatch_float("copy of columns", to.dtype(), [&](auto to_type) {
      const auto* px = from.data<decltype(from_type)>() + from_column;
      auto* py = to.data<decltype(to_type)>() + to_column;
      for_rows(ctx, from.dim(0), count, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
#pragma omp simd
          for (int64_t i = 0; i < count; ++i)
            assign(py[row * to_stride + i], static_cast<float>(px[row * from_stride + i]));
      });
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

/// RandomStream::block() of 8 blocks from `first` on, side by side in 64-bit lanes: their 32 words in order.
constexpr int64_t kBlocks = 8, kWords = 4 * kBlocks;
using LongLanes [[gnu::vector_size(64)]] = uint64_t;
inline void random_words(const RandomStream& stream, uint64_t first, uint32_t* words) {
  constexpr uint64_t kLow = 0xffffffffu;
  const LongLanes index = first + LongLanes{0, 1, 2, 3, 4, 5, 6, 7};
  LongLanes c0 = index & kLow, c1 = index >> 32;
  LongLanes c2 = LongLanes{} + (stream.counter_high & kLow), c3 = LongLanes{} + (stream.counter_high >> 32);
  uint32_t k0 = static_cast<uint32_t>(stream.key), k1 = static_cast<uint32_t>(stream.key >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const LongLanes p0 = c0 * uint64_t{0xD2511F53u}, p1 = c2 * uint64_t{0xCD9E8D57u};
    c0 = (p1 >> 32) ^ c1 ^ k0;
    c2 = (p0 >> 32) ^ c3 ^ k1;
    c1 = p1 & kLow;
    c3 = p0 & kLow;
  }
  const LongLanes low = c0 | c1 << 32, high = c2 | c3 << 32;  // words 0 and 1, 2 and 3 of each block
  for (int64_t i = 0; i < kBlocks; ++i) {
    const std::array<uint64_t, 2> block{low[i], high[i]};
    std::memcpy(words + 4 * i, block.data(), sizeof block);
  }
}

void dropout_kernel(Context& ctx, const Tensor& x, float p, RandomStream stream, const Tensor& step,
                    int64_t first_element, Tensor& y) {
  if (step.defined()) stream.counter_high = static_cast<uint64_t>(step.item<int64_t>());
  const float keep_factor = 1.0f / (1.0f - p);
  dispatch_compute("dropout", x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* px = x.data<T>();
    T* py = y.data<T>();
    for_elements(ctx, x.numel(), [&](int64_t begin, int64_t end) {
      // Whole groups of blocks; the first and the last may reach beyond [begin, end).
      for (int64_t group = (first_element + begin) / kWords * kWords; group < first_element + end;
           group += kWords) {
        alignas(64) uint32_t words[kWords];
        random_words(stream, static_cast<uint64_t>(group / 4), words);
        const int64_t offset = group - first_element, last = std::min(end, offset + kWords);
#pragma omp simd
        for (int64_t i = std::max(begin, offset); i < last; ++i) {
          const auto keep = static_cast<float>(to_uniform(words[i - offset]) >= p);
          assign(py[i], static_cast<float>(px[i]) * (keep * keep_factor));
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
  backend.add_kernel<CopyColumnsKernel>(&copy_columns_kernel);
  backend.add_kernel<SumSquaresKernel>(&sum_squares_kernel);
  backend.add_kernel<DropoutKernel>(&dropout_kernel);
}

}  // namespace trireme::cpu
