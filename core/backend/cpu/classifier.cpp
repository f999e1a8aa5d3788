// The kernel of the classifier: a chunk of rows at a time, logits, then softmax, loss and gradient in place,
// then the two products of backward while the chunk is at hand.
#include "core/ops/classifier.h"

#include <fmt/format.h>

#include "core/backend/cpu/dispatch.h"
#include "core/backend/cpu/gemm.h"
#include "core/backend/cpu/kernels.h"
#include "core/backend/cpu/parallel.h"
#include "core/backend/cpu/classifier_rows.h"

namespace trireme::cpu {

void check_targets(const Tensor& targets, int64_t vocab) {
  const auto values = targets.span<const int32_t>();
  for (size_t n = 0; n < values.size(); ++n)
    if (values[n] < -1 || values[n] >= vocab)
      throw ConfigError(fmt::format(
          "classifier: target {} in row {} of the micro-batch is outside the vocabulary of {} tokens "
          "(0 to {}, or -1 to count nothing); use the tokenizer that the data was made with, or set "
          "model.vocab to its size",
          values[n], n, vocab, vocab - 1));
}

namespace {

/// Rows [0, n) of a chunk: returns the sum of -log softmax[target]; with `dlogits`, their gradients.
template <class T>
double loss_of_rows(const float* logits, const int32_t* targets, int64_t rows, const ClassifierArgs& args,
                    T* dlogits) {
  const int64_t width = args.w.dim(0);
  const float factor = args.scale * (args.loss_scale.defined() ? args.loss_scale.item<float>() : 1.0f);
  double loss = 0.0;
  for (int64_t n = 0; n < rows; ++n) {
    const float* row = logits + n * width;
    T* drow = dlogits ? dlogits + n * width : nullptr;
    if (targets[n] < 0) {
      if (drow) std::fill(drow, drow + width, T(0.0f));
      continue;
    }
    const Normalizer normalizer = normalizer_of(row, args.vocab);
    loss += loss_of(normalizer, row[targets[n]]);
    if (drow) gradient_row(row, normalizer, targets[n], factor, drow, args.vocab, width);
  }
  return loss;
}

/// The same over all threads; each row's loss is its own, so the sum's order is fixed by the ranges.
double loss_of_chunk(Context& ctx, const Tensor& logits, const int32_t* targets, const ClassifierArgs& args,
                     const Tensor& dlogits) {
  const int64_t rows = logits.dim(0), width = logits.dim(1);
  const int count = num_row_ranges(ctx, rows, width);
  std::vector<double> losses(static_cast<size_t>(count));
  dispatch_compute("classifier", dlogits.defined() ? dlogits.dtype() : DType::f32, [&](auto type) {
    using T = decltype(type);
    T* gradients = dlogits.defined() ? dlogits.data<T>() : nullptr;
    parallel_for(count, [&](int i) {
      const Range r = range_of(i, count, rows);
      const int64_t at = r.begin * width;
      losses[static_cast<size_t>(i)] =
          loss_of_rows(logits.data<float>() + at, targets + r.begin, r.end - r.begin, args,
                       gradients ? gradients + at : nullptr);
    });
  });
  double loss = 0.0;
  for (double part : losses) loss += part;
  return loss;
}

void classifier_forward(Context& ctx, ClassifierArgs& args) {
  check_targets(args.targets, args.vocab);
  const int64_t rows = args.h.dim(0), width = args.w.dim(0), channels = args.h.dim(1);
  const int64_t max_bytes = args.max_chunk_bytes > 0 ? args.max_chunk_bytes : kMaxClassifierBytes;
  const int64_t row_bytes = width * static_cast<int64_t>(sizeof(float));
  const int64_t chunk_rows = chunk_rows_of(rows, std::max<int64_t>(1, max_bytes / row_bytes));
  const bool backward = args.dh.defined();
  const bool in_place = args.h.dtype() == DType::f32;
  const Tensor logits_buffer = ctx.empty({chunk_rows, width}, DType::f32, MemoryClass::workspace);
  Tensor dlogits_buffer;
  if (backward)
    dlogits_buffer =
        in_place ? logits_buffer : ctx.empty({chunk_rows, width}, args.h.dtype(), MemoryClass::workspace);
  double loss = 0.0;
  for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
    const int64_t count = std::min(chunk_rows, rows - begin);
    const Tensor h = args.h.flat_view(begin * channels, {count, channels});
    Tensor logits = logits_buffer.slice(0, count);
    multiply_nt(ctx, h, args.w, {}, logits);
    const Tensor dlogits = backward ? dlogits_buffer.slice(0, count) : Tensor();
    loss += loss_of_chunk(ctx, logits, args.targets.data<int32_t>() + begin, args, dlogits);
    if (!backward) continue;
    Tensor dh = args.dh.slice(begin, begin + count);
    multiply_nn(ctx, dlogits, args.w, dh);
    multiply_tn(ctx, dlogits, h, args.accumulate_weight || begin > 0, args.dw);
  }
  args.loss.data<float>()[0] = static_cast<float>(loss * static_cast<double>(args.scale));
}

}  // namespace

void add_classifier_kernels(Backend& backend) {
  backend.add_kernel<ClassifierForward>(&classifier_forward);
}

}  // namespace trireme::cpu
