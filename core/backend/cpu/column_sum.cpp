#include "core/backend/cpu/column_sum.h"

#include "core/backend/cpu/dispatch.h"
#include "core/backend/cpu/parallel.h"

namespace trireme::cpu {
namespace {

/// sum[o] = sum over rows [begin, end) of x[n, o], four rows at a time.
template <class T>
void sum_rows(const T* x, int64_t begin, int64_t end, int64_t width, float* sum) {
  std::fill(sum, sum + width, 0.0f);
  int64_t n = begin;
  for (; n + 4 <= end; n += 4) {
    const T *x0 = x + n * width, *x1 = x0 + width, *x2 = x1 + width, *x3 = x2 + width;
#pragma omp simd
    for (int64_t o = 0; o < width; ++o)
      sum[o] += (static_cast<float>(x0[o]) + static_cast<float>(x1[o])) +
                (static_cast<float>(x2[o]) + static_cast<float>(x3[o]));
  }
  for (; n < end; ++n) {
    const T* row = x + n * width;
#pragma omp simd
    for (int64_t o = 0; o < width; ++o) sum[o] += static_cast<float>(row[o]);
  }
}

}  // namespace

void column_sum(Context& ctx, const Tensor& x, bool accumulate, Tensor& sums) {
  const int64_t rows = x.dim(0), width = x.dim(1);
  const int count = num_row_ranges(ctx, rows, width);
  const Tensor partial = ctx.empty({count, width}, DType::f32, MemoryClass::workspace);
  float* parts = partial.data<float>();
  dispatch_compute("column sum", x.dtype(), [&](auto type) {
    parallel_for(count, [&](int i) {
      const Range r = range_of(i, count, rows);
      sum_rows(x.data<decltype(type)>(), r.begin, r.end, width, parts + i * width);
    });
  });
  float* out = sums.data<float>();
  if (!accumulate) std::fill(out, out + width, 0.0f);
  for (int i = 0; i < count; ++i)
#pragma omp simd
    for (int64_t o = 0; o < width; ++o) out[o] += parts[i * width + o];
}

}  // namespace trireme::cpu
