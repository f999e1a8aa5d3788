// The kernels of softmax over columns that lie on several ranks.
#include "core/ops/softmax_part.h"

#include <cmath>
#include <limits>

#include "core/backend/cpu/classifier.h"
#include "core/backend/cpu/dispatch.h"
#include "core/backend/cpu/kernels.h"
#include "core/backend/cpu/parallel.h"

namespace trireme::cpu {
namespace {

/// How many columns of a row are no padding.
int64_t used_columns(const Tensor& logits, const SoftmaxPart& part) {
  return std::clamp<int64_t>(part.vocab - part.first_column, 0, logits.dim(1));
}

void softmax_part_sums(Context& ctx, const Tensor& logits, const Tensor& targets, const SoftmaxPart& part, Tensor& sums) {
  check_targets(targets, part.vocab);
  const int64_t width = logits.dim(1), used = used_columns(logits, part);
  const int32_t* target = targets.data<int32_t>();
  float* out = sums.data<float>();
  dispatch_compute("classifier", logits.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* all = logits.data<T>();
    for_rows(ctx, logits.dim(0), width, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* row = all + n * width;
        float max = std::numeric_limits<float>::lowest();
        for (int64_t v = 0; v < used; ++v) max = std::max(max, static_cast<float>(row[v]));
        float sum = 0.0f;
        for (int64_t v = 0; v < used; ++v) sum += std::exp(static_cast<float>(row[v]) - max);
        const int64_t column = target[n] - part.first_column;
        float* of_row = out + n * kSoftmaxSums;
        of_row[kSoftmaxMax] = max;
        of_row[kSoftmaxSum] = sum;
        of_row[kSoftmaxTarget] = column >= 0 && column < used ? static_cast<float>(row[column]) : 0.0f;
      }
    });
  });
}

/// max, sum and target's logit of the row `n` of `rows`, from all ranks' sums, added in the order of the ranks.
std::array<float, kSoftmaxSums> combine(const Tensor& sums_of_ranks, int64_t n) {
  const int64_t ranks = sums_of_ranks.dim(0), rows = sums_of_ranks.dim(1);
  const float* all = sums_of_ranks.data<float>();
  std::array<float, kSoftmaxSums> whole{std::numeric_limits<float>::lowest(), 0.0f, 0.0f};
  for (int64_t r = 0; r < ranks; ++r) whole[kSoftmaxMax] = std::max(whole[kSoftmaxMax], all[(r * rows + n) * kSoftmaxSums]);
  for (int64_t r = 0; r < ranks; ++r) {
    const float* of_rank = all + (r * rows + n) * kSoftmaxSums;
    whole[kSoftmaxSum] += of_rank[kSoftmaxSum] * std::exp(of_rank[kSoftmaxMax] - whole[kSoftmaxMax]);
    whole[kSoftmaxTarget] += of_rank[kSoftmaxTarget];
  }
  return whole;
}

void softmax_part_gradient(Context& ctx, Tensor& logits, const Tensor& targets, const Tensor& sums_of_ranks, const SoftmaxPart& part,
                           bool gradient, Tensor& losses) {
  const int64_t width = logits.dim(1), used = used_columns(logits, part);
  const float factor = part.scale * (part.loss_scale.defined() ? part.loss_scale.item<float>() : 1.0f);
  const int32_t* target = targets.data<int32_t>();
  float* loss = losses.data<float>();
  dispatch_compute("classifier", logits.dtype(), [&](auto type) {
    using T = decltype(type);
    T* all = logits.data<T>();
    for_rows(ctx, logits.dim(0), width, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        T* row = all + n * width;
        if (target[n] < 0) {
          loss[n] = 0.0f;
          if (gradient) std::fill(row, row + width, T(0.0f));
          continue;
        }
        const auto [max, sum, target_logit] = combine(sums_of_ranks, n);
        loss[n] = std::log(sum) + (max - target_logit);
        if (!gradient) continue;
        for (int64_t v = 0; v < used; ++v) row[v] = T(factor / sum * std::exp(static_cast<float>(row[v]) - max));
        std::fill(row + used, row + width, T(0.0f));
        const int64_t column = target[n] - part.first_column;
        if (column >= 0 && column < used) row[column] = T(factor * (std::exp(target_logit - max) / sum - 1.0f));
      }
    });
  });
}

void scaled_sum(Context&, const Tensor& values, float scale, Tensor& sum) {
  double total = 0.0;
  for (float value : values.span<float>()) total += value;
  sum.data<float>()[0] = static_cast<float>(total * static_cast<double>(scale));
}

}  // namespace

void add_softmax_part_kernels(Backend& backend) {
  backend.add_kernel<SoftmaxPartSums>(&softmax_part_sums);
  backend.add_kernel<SoftmaxPartGradient>(&softmax_part_gradient);
  backend.add_kernel<ScaledSum>(&scaled_sum);
}

}  // namespace trireme::cpu
