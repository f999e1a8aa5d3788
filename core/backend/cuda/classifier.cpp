// The kernel of the classifier: a chunk of rows at a time, logits in the type of h, softmax, loss and gradient in place,
// then the two products of backward while the chunk is at hand.
#include "core/ops/classifier.h"

#include <algorithm>

#include "core/backend/cuda/classifier_chunks.h"
#include "core/backend/cuda/kernels.h"
#include "core/backend/cuda/matmul.h"
#include "core/backend/cuda/softmax_rows.h"

namespace trireme::cuda {
namespace {

void classifier_forward(Context& ctx, ClassifierArgs& args) {
  const int64_t rows = args.h.dim(0), width = args.w.dim(0), channels = args.h.dim(1);
  const int64_t row_bytes = width * static_cast<int64_t>(size_of(args.h.dtype()));
  const int64_t max_bytes = args.max_chunk_bytes > 0 ? args.max_chunk_bytes : kMaxClassifierBytes;
  const int64_t chunk_rows = chunk_rows_of(rows, std::max<int64_t>(1, max_bytes / row_bytes));
  const bool backward = args.dh.defined();
  const Tensor buffer = ctx.empty({chunk_rows, width}, args.h.dtype(), MemoryClass::workspace);
  const Tensor losses = ctx.empty({rows}, DType::f32, MemoryClass::workspace);
  for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
    const int64_t count = std::min(chunk_rows, rows - begin);
    const Tensor h = args.h.flat_view(begin * channels, {count, channels});
    Tensor logits = buffer.slice(0, count);
    multiply_nt(ctx, h, args.w, {}, logits);
    softmax_rows(ctx, {.logits = logits,
                       .targets = args.targets.data<int32_t>() + begin,
                       .losses = losses.data<float>() + begin,
                       .vocab = args.vocab,
                       .gradient = backward,
                       .scale = args.scale,
                       .loss_scale = args.loss_scale.defined() ? args.loss_scale.data<float>() : nullptr});
    if (!backward) continue;
    Tensor dh = args.dh.slice(begin, begin + count);
    multiply_nn(ctx, logits, args.w, dh);
    multiply_tn(ctx, logits, h, args.accumulate_weight || begin > 0, args.dw);
  }
  scaled_sum(ctx, losses, args.scale, args.loss);
}

}  // namespace

void add_classifier_kernels(Backend& backend) { backend.add_kernel<ClassifierForward>(&classifier_forward); }

}  // namespace trireme::cuda
