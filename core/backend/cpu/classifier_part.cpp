// The kernels of a part of the classifier's vocabulary. Logits are f32, and their gradients of h's type.
#include "core/ops/classifier_part.h"

#include "core/backend/cpu/classifier_rows.h"
#include "core/backend/cpu/dispatch.h"
#include "core/backend/cpu/gemm.h"
#include "core/backend/cpu/kernels.h"
#include "core/backend/cpu/parallel.h"

namespace trireme::cpu {
namespace {

/// One row's numbers, as ranks exchange them.
struct RowSums {
  float max, sum, target_logit;
};
static_assert(sizeof(RowSums) == 3 * sizeof(float));

RowSums* rows_of(const Tensor& sums) {
  return reinterpret_cast<RowSums*>(sums.data<float>());
}

/// Of all parts: their sums relative to the largest max.
RowSums combine(const RowSums* first, int64_t parts, int64_t stride) {
  RowSums all = first[0];
  for (int64_t p = 1; p < parts; ++p) all.max = std::max(all.max, first[p * stride].max);
  all.sum = all.target_logit = 0.0f;
  for (int64_t p = 0; p < parts; ++p) {
    const RowSums& part = first[p * stride];
    all.sum += part.sum * std::exp(part.max - all.max);
    all.target_logit += part.target_logit;
  }
  return all;
}

/// The target as a column of this part; -1 where it is none.
int64_t column_of(int32_t target, const ClassifierPart& part) {
  const int64_t column = target - part.first_row;
  return target >= 0 && column >= 0 && column < part.columns() ? column : -1;
}

ClassifierPartPlan begin_part(Context&, const ClassifierPart& part, int64_t columns) {
  check_targets(part.targets, part.vocab);
  const int64_t rows = part.h.dim(0), row_bytes = columns * static_cast<int64_t>(sizeof(float));
  if (rows * row_bytes <= kMaxClassifierBytes) return {rows, DType::f32};
  return {chunk_rows_of(rows, std::max<int64_t>(1, kMaxClassifierBytes / 2 / row_bytes)), DType::f32};
}

void part_logits(Context& ctx, const ClassifierPart& part, ClassifierPartChunk& chunk) {
  const int64_t width = part.w.dim(0), columns = part.columns();
  multiply_nt(ctx, part.h.slice(chunk.begin, chunk.end), part.w, {}, chunk.logits);
  const float* logits = chunk.logits.data<float>();
  const int32_t* targets = part.targets.data<int32_t>() + chunk.begin;
  RowSums* sums = rows_of(chunk.sums);
  for_rows(ctx, chunk.rows(), width, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* row = logits + n * width;
      sums[n] = {std::numeric_limits<float>::lowest(), 0.0f, 0.0f};
      if (targets[n] < 0 || columns == 0) continue;
      const Normalizer normalizer = normalizer_of(row, columns);
      const int64_t target = column_of(targets[n], part);
      sums[n] = {normalizer.max, normalizer.sum, target < 0 ? 0.0f : row[target]};
    }
  });
}

/// Losses of the chunk's rows and, with `dlogits`, their gradients.
template <class T>
void rows_of_chunk(Context& ctx, const ClassifierPart& part, const ClassifierPartChunk& chunk, T* dlogits) {
  const int64_t rows = chunk.rows(), width = part.w.dim(0), parts = chunk.all_sums.dim(0);
  const float factor = part.scale * (part.loss_scale.defined() ? part.loss_scale.item<float>() : 1.0f);
  const float* logits = chunk.logits.data<float>();
  const int32_t* targets = part.targets.data<int32_t>() + chunk.begin;
  const RowSums* sums = rows_of(chunk.all_sums);
  float* losses = part.losses.data<float>() + chunk.begin;
  for_rows(ctx, rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      T* drow = dlogits ? dlogits + n * width : nullptr;
      if (targets[n] < 0) {
        losses[n] = 0.0f;
        if (drow) std::fill(drow, drow + width, T(0.0f));
        continue;
      }
      const RowSums all = combine(sums + n, parts, rows);
      const Normalizer normalizer{all.max, all.sum};
      losses[n] = static_cast<float>(loss_of(normalizer, all.target_logit));
      if (drow)
        gradient_row(logits + n * width, normalizer, column_of(targets[n], part), factor, drow,
                     part.columns(), width);
    }
  });
}

void part_gradient(Context& ctx, const ClassifierPart& part, ClassifierPartChunk& chunk) {
  const bool backward = part.dh.defined();
  const DType dtype = backward ? part.h.dtype() : DType::f32;
  Tensor dlogits;
  if (backward)
    dlogits =
        dtype == DType::f32 ? chunk.logits : ctx.empty(chunk.logits.shape(), dtype, MemoryClass::workspace);
  dispatch_compute("classifier", dtype, [&](auto type) {
    using T = decltype(type);
    rows_of_chunk<T>(ctx, part, chunk, backward ? dlogits.data<T>() : nullptr);
  });
  if (backward) {
    Tensor dh = part.dh.slice(chunk.begin, chunk.end), dw = part.dw;
    multiply_nn(ctx, dlogits, part.w, dh);
    multiply_tn(ctx, dlogits, part.h.slice(chunk.begin, chunk.end), part.accumulate_weight || chunk.begin > 0,
                dw);
  }
  if (chunk.end < part.h.dim(0)) return;
  double loss = 0.0;  // in the order of the rows, so that threads don't matter
  for (const float l : part.losses.span<const float>()) loss += static_cast<double>(l);
  part.loss.data<float>()[0] = static_cast<float>(loss * static_cast<double>(part.scale));
}

}  // namespace

void add_classifier_part_kernels(Backend& backend) {
  backend.add_kernel<ClassifierPartBegin>(&begin_part);
  backend.add_kernel<ClassifierPartLogits>(&part_logits);
  backend.add_kernel<ClassifierPartGradient>(&part_gradient);
}

}  // namespace trireme::cpu
