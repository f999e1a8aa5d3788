// The kernels of layer_norm: a row at a time, which stays in the first-level cache between its passes.
#include "core/ops/layer_norm.h"

#include <cmath>

#include "core/backend/cpu/dispatch.h"
#include "core/backend/cpu/kernels.h"
#include "core/backend/cpu/parallel.h"
#include "core/backend/cpu/simd.h"

namespace trireme::cpu {
namespace {

template <class T>
const T* data_or_null(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}

/// sum = x + delta
template <class T>
void add_row(const T* x, const T* delta, T* sum, int64_t width) {
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) assign(sum[c], static_cast<float>(x[c]) + static_cast<float>(delta[c]));
}

struct Moments {
  float mean, rstd;
};

template <class T>
Moments moments_of_row(const T* x, int64_t width, float eps) {
  const auto value = [](FloatLanes v) { return v; };
  const float mean = sum_over(width, value, x) / static_cast<float>(width);
  const auto squared_distance = [mean](FloatLanes v) { return (v - mean) * (v - mean); };
  const float squares = sum_over(width, squared_distance, x);
  return {mean, 1.0f / std::sqrt(squares / static_cast<float>(width) + eps)};
}

template <class T>
void normalize_row(const T* x, Moments m, const T* w, const T* b, T* y, int64_t width) {
  if (b) {
#pragma omp simd
    for (int64_t c = 0; c < width; ++c)
      assign(y[c], (static_cast<float>(x[c]) - m.mean) * m.rstd * static_cast<float>(w[c]) +
                       static_cast<float>(b[c]));
  } else {
#pragma omp simd
    for (int64_t c = 0; c < width; ++c)
      assign(y[c], (static_cast<float>(x[c]) - m.mean) * m.rstd * static_cast<float>(w[c]));
  }
}

void layer_norm_forward(Context& ctx, const Tensor& x, const Tensor& delta, const Tensor& w, const Tensor& b,
                        float eps, Tensor& residual, Tensor& y, Tensor& mean, Tensor& rstd) {
  dispatch_compute("layer_norm", x.dtype(), [&](auto type) {
    using T = decltype(type);
    const int64_t rows = x.dim(0), width = x.dim(1);
    const T *px = x.data<T>(), *pdelta = data_or_null<T>(delta), *pw = w.data<T>(), *pb = data_or_null<T>(b);
    T *presidual = pdelta ? residual.data<T>() : nullptr, *py = y.data<T>();
    float *pmean = mean.data<float>(), *prstd = rstd.data<float>();
    for_rows(ctx, rows, width, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* row = px + n * width;
        if (pdelta) {
          add_row(row, pdelta + n * width, presidual + n * width, width);
          row = presidual + n * width;
        }
        const Moments m = moments_of_row(row, width, eps);
        normalize_row(row, m, pw, pb, py + n * width, width);
        pmean[n] = m.mean;
        prstd[n] = m.rstd;
      }
    });
  });
}

/// dw += dy * xhat ; db += dy ; returns the means over the row of dxhat = dy * w and of dxhat * xhat.
struct RowSums {
  float dxhat, dxhat_xhat;
};
template <class T>
RowSums accumulate_row(const T* x, const T* dy, Moments m, const T* w, float* dw, float* db, int64_t width) {
  float sum = 0.0f, sum_xhat = 0.0f;
#pragma omp simd reduction(+ : sum, sum_xhat)
  for (int64_t c = 0; c < width; ++c) {
    const float xhat = (static_cast<float>(x[c]) - m.mean) * m.rstd;
    const float d = static_cast<float>(dy[c]), dxhat = d * static_cast<float>(w[c]);
    sum += dxhat;
    sum_xhat += dxhat * xhat;
    dw[c] += d * xhat;
    db[c] += d;
  }
  return {sum / static_cast<float>(width), sum_xhat / static_cast<float>(width)};
}

/// dx = rstd (dxhat - mean(dxhat) - xhat mean(dxhat * xhat)) (+ dresidual)
template <class T>
void input_grad_row(const T* x, const T* dy, Moments m, const T* w, RowSums sums, const T* dresidual, T* dx,
                    int64_t width) {
  const auto grad = [&](int64_t c) {
    const float xhat = (static_cast<float>(x[c]) - m.mean) * m.rstd;
    return m.rstd *
           (static_cast<float>(dy[c]) * static_cast<float>(w[c]) - sums.dxhat - xhat * sums.dxhat_xhat);
  };
  if (dresidual) {
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) assign(dx[c], grad(c) + static_cast<float>(dresidual[c]));
  } else {
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) assign(dx[c], grad(c));
  }
}

void layer_norm_backward(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& mean,
                         const Tensor& rstd, const Tensor& dresidual, const Tensor& dy, Tensor& dx,
                         Tensor& dwb) {
  const int64_t rows = x.dim(0), width = x.dim(1);
  const int count = num_row_ranges(ctx, rows, width);
  const Tensor partial = ctx.empty({count, 2, width}, DType::f32, MemoryClass::workspace);
  dispatch_compute("layer_norm backward", x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T *px = x.data<T>(), *pdy = dy.data<T>(), *pw = w.data<T>(), *pres = data_or_null<T>(dresidual);
    parallel_for(count, [&](int i) {
      float* dw = partial.data<float>() + i * 2 * width;
      std::fill(dw, dw + 2 * width, 0.0f);
      const Range r = range_of(i, count, rows);
      for (int64_t n = r.begin; n < r.end; ++n) {
        const int64_t at = n * width;
        const Moments m{mean.data<float>()[n], rstd.data<float>()[n]};
        const RowSums sums = accumulate_row(px + at, pdy + at, m, pw, dw, dw + width, width);
        input_grad_row(px + at, pdy + at, m, pw, sums, pres ? pres + at : nullptr, dx.data<T>() + at, width);
      }
    });
  });
  float* out = dwb.data<float>();
  std::fill(out, out + 2 * width, 0.0f);
  for (int i = 0; i < count; ++i)
#pragma omp simd
    for (int64_t c = 0; c < 2 * width; ++c) out[c] += partial.data<float>()[i * 2 * width + c];
}

}  // namespace

void add_layer_norm_kernels(Backend& backend) {
  backend.add_kernel<LayerNormForward>(&layer_norm_forward);
  backend.add_kernel<LayerNormBackward>(&layer_norm_backward);
}

}  // namespace trireme::cpu
