// The kernels of linear: matrix products (gemm.h) and the sum of rows.
#include "core/ops/linear.h"

#include "core/backend/cpu/dispatch.h"
#include "core/backend/cpu/gemm.h"
#include "core/backend/cpu/kernels.h"
#include "core/backend/cpu/parallel.h"

namespace trireme::cpu {
namespace {

void linear_forward(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y) {
  multiply_nt(ctx, x, w, b, y);
}

void linear_backward_input(Context& ctx, const Tensor& dy, const Tensor& w, Tensor& dx) {
  multiply_nn(ctx, dy, w, dx);
}

/// sum[o] = sum over rows [begin, end) of dy[n, o], four rows at a time.
template <class T>
void sum_rows(const T* dy, int64_t begin, int64_t end, int64_t width, float* sum) {
  std::fill(sum, sum + width, 0.0f);
  int64_t n = begin;
  for (; n + 4 <= end; n += 4) {
    const T *d0 = dy + n * width, *d1 = d0 + width, *d2 = d1 + width, *d3 = d2 + width;
#pragma omp simd
    for (int64_t o = 0; o < width; ++o)
      sum[o] += (static_cast<float>(d0[o]) + static_cast<float>(d1[o])) +
                (static_cast<float>(d2[o]) + static_cast<float>(d3[o]));
  }
  for (; n < end; ++n) {
    const T* d = dy + n * width;
#pragma omp simd
    for (int64_t o = 0; o < width; ++o) sum[o] += static_cast<float>(d[o]);
  }
}

/// db (+)= the sum of dy's rows
void add_rows(Context& ctx, const Tensor& dy, bool accumulate, Tensor& db) {
  const int64_t rows = dy.dim(0), width = dy.dim(1);
  const int count = num_row_ranges(ctx, rows, width);
  const Tensor partial = ctx.empty({count, width}, DType::f32, MemoryClass::workspace);
  float* sums = partial.data<float>();
  dispatch_compute("linear backward", dy.dtype(), [&](auto type) {
    parallel_for(count, [&](int i) {
      const Range r = range_of(i, count, rows);
      sum_rows(dy.data<decltype(type)>(), r.begin, r.end, width, sums + i * width);
    });
  });
  float* out = db.data<float>();
  if (!accumulate) std::fill(out, out + width, 0.0f);
  for (int i = 0; i < count; ++i)
#pragma omp simd
    for (int64_t o = 0; o < width; ++o) out[o] += sums[i * width + o];
}

void linear_backward_weight(Context& ctx, const Tensor& x, const Tensor& dy, bool accumulate_w, Tensor& dw,
                            bool accumulate_b, Tensor& db) {
  multiply_tn(ctx, dy, x, accumulate_w, dw);
  if (db.defined()) add_rows(ctx, dy, accumulate_b, db);
}

}  // namespace

void add_linear_kernels(Backend& backend) {
  backend.add_state(std::make_shared<MatmulCache>());
  backend.add_kernel<LinearForward>(&linear_forward);
  backend.add_kernel<LinearBackwardInput>(&linear_backward_input);
  backend.add_kernel<LinearBackwardWeight>(&linear_backward_weight);
}

}  // namespace trireme::cpu
