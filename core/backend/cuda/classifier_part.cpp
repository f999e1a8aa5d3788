// The kernels of a part of the classifier's vocabulary. Logits are in the type of h, and become their
// gradients in place.
#include "core/ops/classifier_part.h"

#include "core/backend/cuda/classifier_chunks.h"
#include "core/backend/cuda/kernels.h"
#include "core/backend/cuda/matmul.h"
#include "core/backend/cuda/softmax_part.h"
#include "core/backend/cuda/softmax_rows.h"

namespace trireme::cuda {
namespace {

/// Targets are not looked at: the host would wait for the device.
ClassifierPartPlan begin_part(Context&, const ClassifierPart& part, int64_t columns) {
  const int64_t rows = part.h.dim(0), row_bytes = columns * static_cast<int64_t>(size_of(part.h.dtype()));
  if (rows * row_bytes <= kMaxClassifierBytes) return {rows, part.h.dtype()};
  return {chunk_rows_of(rows, std::max<int64_t>(1, kMaxClassifierBytes / 2 / row_bytes)), part.h.dtype()};
}

void part_logits(Context& ctx, const ClassifierPart& part, ClassifierPartChunk& chunk) {
  multiply_nt(ctx, part.h.slice(chunk.begin, chunk.end), part.w, {}, chunk.logits);
  softmax_part_sums(ctx, part, chunk);
}

void part_gradient(Context& ctx, const ClassifierPart& part, ClassifierPartChunk& chunk) {
  softmax_part_gradient(ctx, part, chunk);
  if (part.dh.defined()) {
    Tensor dh = part.dh.slice(chunk.begin, chunk.end), dw = part.dw;
    multiply_nn(ctx, chunk.logits, part.w, dh);
    multiply_tn(ctx, chunk.logits, part.h.slice(chunk.begin, chunk.end),
                part.accumulate_weight || chunk.begin > 0, dw);
  }
  if (chunk.end < part.h.dim(0)) return;
  Tensor loss = part.loss;
  scaled_sum(ctx, part.losses, part.scale, loss);
}

}  // namespace

void add_classifier_part_kernels(Backend& backend) {
  backend.add_kernel<ClassifierPartBegin>(&begin_part);
  backend.add_kernel<ClassifierPartLogits>(&part_logits);
  backend.add_kernel<ClassifierPartGradient>(&part_gradient);
}

}  // namespace trireme::cuda
