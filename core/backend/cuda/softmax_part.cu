// A block a row, in both passes; the gradient is written in place.
#include "core/backend/cuda/softmax_part.h"

#include "core/backend/cuda/softmax_rows.cuh"

namespace trireme::cuda {
namespace {

constexpr int64_t kMaxThreads = 512;  // so that a multiprocessor has several rows at a time

struct RowSums {
  float max, sum, target_logit;
};

struct Args {
  int width, columns;  // of a row; of those no padding
  int64_t first_row, vocab;
  const int32_t* targets;

  /// A target as a column of this part, or -1.
  __device__ int column_of(int32_t target) const {
    const int64_t column = target - first_row;
    return target >= 0 && column >= 0 && column < columns ? static_cast<int>(column) : -1;
  }
};

/// `logits` and its rows are aligned to a piece.
template <class T, int kSize>
__global__ void __launch_bounds__(kMaxThreads) sums_kernel(const T* logits, Args args, RowSums* sums) {
  const int target = args.targets[blockIdx.x];
  if (target == -1) {
    if (threadIdx.x == 0) sums[blockIdx.x] = {-FLT_MAX, 0.0f, 0.0f};
    return;
  }
  const T* row = logits + int64_t{blockIdx.x} * args.width;
  const Normalizer n = read_row<T, kSize>(row, (args.columns + kSize - 1) / kSize, args.columns, nullptr, 0);
  if (threadIdx.x != 0) return;
  const int column = args.column_of(target);
  sums[blockIdx.x] = {n.max, n.sum, column < 0 ? 0.0f : to_float(row[column])};
}

/// Of all parts: their sums relative to the largest max, always added in the same order.
__device__ inline RowSums combine_parts(const RowSums* first, int parts, int64_t stride) {
  RowSums all{-FLT_MAX, 0.0f, 0.0f};
  for (int p = 0; p < parts; ++p) all.max = fmaxf(all.max, first[p * stride].max);
  for (int p = 0; p < parts; ++p) {
    const RowSums part = first[p * stride];
    all.sum += part.sum * expf(part.max - all.max);
    all.target_logit += part.target_logit;
  }
  return all;
}

struct GradientArgs {
  const RowSums* all_sums;  // [parts, rows]
  int parts;
  float* losses;
  bool gradient;
  float scale;
  const float* loss_scale;  // null: 1
};

template <class T, int kSize>
__global__ void __launch_bounds__(kMaxThreads) gradient_kernel(T* logits, Args args, GradientArgs g) {
  T* row = logits + int64_t{blockIdx.x} * args.width;
  const int pieces = args.width / kSize, target = args.targets[blockIdx.x];
  if (target == -1) {
    if (g.gradient) zero_row<T, kSize>(row, pieces);
    if (threadIdx.x == 0) g.losses[blockIdx.x] = 0.0f;
    return;
  }
  const RowSums all = combine_parts(g.all_sums + blockIdx.x, g.parts, gridDim.x);
  // A target outside the vocabulary is an error that shows as NaN, in the loss and in the gradient.
  const bool is_token = target >= 0 && target < args.vocab;
  if (threadIdx.x == 0) g.losses[blockIdx.x] = is_token ? logf(all.sum) + (all.max - all.target_logit) : NAN;
  if (!g.gradient) return;
  const float factor = is_token ? g.scale * (g.loss_scale ? *g.loss_scale : 1.0f) : NAN;
  write_gradient<T, kSize>(row, pieces, args.columns, args.column_of(target), {all.max, all.sum}, factor,
                           nullptr, 0, [](float) {});
}

/// f(T{}, size of a piece as a constant, the kernels' arguments, threads of a block).
template <class F>
void dispatch_part(const ClassifierPart& part, const ClassifierPartChunk& chunk, const F& f) {
  const Tensor& logits = chunk.logits;
  const int64_t width = logits.dim(1);
  TRIREME_ASSERT(width < (int64_t{1} << 30), "softmax of a part: rows are too long");
  const Args args{static_cast<int>(width), static_cast<int>(part.columns()), part.first_row, part.vocab,
                  part.targets.data<int32_t>() + chunk.begin};
  dispatch_float("softmax of a part", logits.dtype(), [&](auto type) {
    using T = decltype(type);
    constexpr int kSize = Pack<T>::kSize;
    const bool packs = is_aligned(logits.raw()) && width % kSize == 0;
    const int64_t pieces = packs ? width / kSize : width;
    const auto threads = static_cast<unsigned>(
        std::clamp<int64_t>(ceil_div(pieces, kUnroll * kWarp) * kWarp, 64, kMaxThreads));
    if (packs)
      f(type, std::integral_constant<int, kSize>{}, args, threads);
    else
      f(type, std::integral_constant<int, 1>{}, args, threads);
    check_launch("softmax of a part");
  });
}

RowSums* row_sums(const Tensor& sums) {
  return reinterpret_cast<RowSums*>(sums.data<float>());
}

}  // namespace

void softmax_part_sums(Context& ctx, const ClassifierPart& part, const ClassifierPartChunk& chunk) {
  if (chunk.rows() == 0) return;
  dispatch_part(part, chunk, [&](auto type, auto size, const Args& args, unsigned threads) {
    using T = decltype(type);
    sums_kernel<T, size><<<static_cast<unsigned>(chunk.rows()), threads, 0, raw_stream(ctx)>>>(
        elements<T>(chunk.logits), args, row_sums(chunk.sums));
  });
}

void softmax_part_gradient(Context& ctx, const ClassifierPart& part, const ClassifierPartChunk& chunk) {
  if (chunk.rows() == 0) return;
  const GradientArgs gradient{row_sums(chunk.all_sums),
                              static_cast<int>(chunk.all_sums.dim(0)),
                              part.losses.data<float>() + chunk.begin,
                              part.dh.defined(),
                              part.scale,
                              part.loss_scale.defined() ? part.loss_scale.data<float>() : nullptr};
  dispatch_part(part, chunk, [&](auto type, auto size, const Args& args, unsigned threads) {
    using T = decltype(type);
    gradient_kernel<T, size>
        <<<static_cast<unsigned>(chunk.rows()), gradient.gradient ? threads : kWarp, 0, raw_stream(ctx)>>>(
            elements<T>(chunk.logits), args, gradient);
  });
}

}  // namespace trireme::cuda
