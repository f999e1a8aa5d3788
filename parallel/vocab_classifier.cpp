#include "parallel/vocab_classifier.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/ops/linear.h"
#include "core/ops/softmax_part.h"
#include "core/tape.h"

namespace trireme {
namespace {

constexpr int64_t kMaxChunkBytes = int64_t{128} << 20;  // of logits; two chunks exist at a time

/// A range of rows between its product and its gradient.
struct Chunk {
  int64_t begin = 0, end = 0;
  Tensor logits;
  Tensor sums;  // f32 [R, n, kSoftmaxSums]
  Work work;
};

/// Both gradients are made in forward, as in core/ops/classifier.cpp.
class VocabClassifierOp : public Op {
 public:
  VocabClassifierOp(Parameter& w, float scale, int64_t vocab, int64_t first_row, Group& group)
      : parameter_(&w), scale_(scale), vocab_(vocab), first_row_(first_row), group_(group) {}
  std::string_view name() const override { return "vocab_classifier"; }
  std::span<Parameter* const> parameters() const override { return {&parameter_, 1}; }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    const Tensor h = inputs[0].detach(), targets = inputs[1].flat_view(0, {inputs[1].numel()});
    const int64_t rows = h.dim(0), width = parameter_->shape[0];
    const int64_t row_bytes = width * static_cast<int64_t>(size_of(h.dtype()));
    const int64_t chunks = std::max<int64_t>(1, (rows * row_bytes + kMaxChunkBytes - 1) / kMaxChunkBytes);
    const int64_t chunk_rows = std::max<int64_t>(1, (rows + chunks - 1) / chunks);
    Tensor losses = ctx.empty({rows}, DType::f32, MemoryClass::workspace);
    Tensor dh = ctx.tape ? ctx.empty(h.shape(), h.dtype()) : Tensor();
    Chunk next = rows > 0 ? begin_chunk(ctx, h, targets, 0, std::min(rows, chunk_rows)) : Chunk();
    while (next.begin < next.end) {
      Chunk chunk = std::move(next);
      next = Chunk();
      if (chunk.end < rows) next = begin_chunk(ctx, h, targets, chunk.end, std::min(rows, chunk.end + chunk_rows));
      finish_chunk(ctx, chunk, h, targets, losses, dh);
    }
    if (ctx.tape) saved.tensors = {dh};
    Tensor loss = ctx.empty({1});
    ctx.kernel<ScaledSum>()(ctx, losses, scale_, loss);
    return {loss};
  }

  Tensors backward_input(Context&, Saved& saved, Tensors) const override { return {std::move(saved.tensors[0]), Tensor()}; }

 private:
  SoftmaxPart part(const Context& ctx) const {
    return {first_row_, vocab_, scale_, ctx.tape ? ctx.loss_scale : Tensor()};
  }

  /// Logits of the rows [begin, end); what the ranks know of them is on its way when this returns.
  Chunk begin_chunk(Context& ctx, const Tensor& h, const Tensor& targets, int64_t begin, int64_t end) const {
    const int64_t n = end - begin, ranks = group_.size();
    Chunk chunk{begin, end, ctx.empty({n, parameter_->shape[0]}, h.dtype(), MemoryClass::workspace), {}, {}};
    ctx.kernel<LinearForward>()(ctx, h.slice(begin, end), parameter_->data, Tensor(), chunk.logits);
    Tensor own = ctx.empty({n, kSoftmaxSums}, DType::f32, MemoryClass::workspace);
    ctx.kernel<SoftmaxPartSums>()(ctx, chunk.logits, targets.slice(begin, end), part(ctx), own);
    chunk.sums = ctx.empty({ranks, n, kSoftmaxSums}, DType::f32, MemoryClass::workspace);
    chunk.work = group_.all_gather(own, chunk.sums, "softmax of the vocabulary", ctx.stream);
    return chunk;
  }

  void finish_chunk(Context& ctx, Chunk& chunk, const Tensor& h, const Tensor& targets, Tensor& losses, Tensor& dh) const {
    chunk.work.wait(*ctx.stream);
    Tensor of_rows = losses.slice(chunk.begin, chunk.end);
    ctx.kernel<SoftmaxPartGradient>()(ctx, chunk.logits, targets.slice(chunk.begin, chunk.end), chunk.sums, part(ctx), dh.defined(),
                                      of_rows);
    if (!dh.defined()) return;
    Tensor dh_rows = dh.slice(chunk.begin, chunk.end), none;
    ctx.kernel<LinearBackwardInput>()(ctx, chunk.logits, parameter_->data, dh_rows);
    ctx.kernel<LinearBackwardWeight>()(ctx, h.slice(chunk.begin, chunk.end), chunk.logits, parameter_->begin_accumulate(),
                                       parameter_->grad, false, none);
  }

  Parameter* parameter_;
  float scale_;
  int64_t vocab_, first_row_;
  Group& group_;
};

}  // namespace

Tensor vocab_classifier_loss(Context& ctx, const Tensor& h, Parameter& w, const Tensor& targets, float scale, int64_t vocab,
                             int64_t first_row, Group& tensor) {
  TRIREME_ASSERT(h.rank() == 2 && w.shape.rank() == 2 && h.dim(1) == w.shape[1] && targets.numel() == h.dim(0),
                 fmt::format("vocab_classifier {}: h {}, w {}, targets {} do not fit", w.name, to_string(h.shape()),
                             to_string(w.shape), to_string(targets.shape())));
  return apply(ctx, std::make_shared<VocabClassifierOp>(w, scale, vocab, first_row, tensor), {h, targets})[0];
}

Tensor gather_columns(Context& ctx, const Tensor& local, std::span<const int64_t> columns, Group& group) {
  TRIREME_ASSERT(local.dtype() == DType::f32 && static_cast<int>(columns.size()) == group.size() &&
                     local.dim(1) == columns[static_cast<size_t>(group.rank())],
                 "gather_columns: sizes differ");
  // Ranks send equally much: each row padded to the longest.
  const int64_t rows = local.dim(0), longest = *std::ranges::max_element(columns);
  const auto bytes = [](int64_t n) { return static_cast<size_t>(n) * sizeof(float); };
  const Tensor padded = ctx.zeros({rows, longest}), all = ctx.empty({group.size() * rows, longest});
  for (int64_t b = 0; b < rows; ++b)
    ctx.backend->copy(padded.slice(b, b + 1).raw(), local.slice(b, b + 1).raw(), bytes(local.dim(1)), *ctx.stream);
  group.all_gather(padded, all, "logits", ctx.stream).wait(*ctx.stream);
  int64_t total = 0;
  for (int64_t n : columns) total += n;
  const Tensor whole = ctx.empty({rows, total});
  int64_t at = 0;
  for (size_t r = 0; r < columns.size(); at += columns[r++])
    for (int64_t b = 0; b < rows; ++b)
      ctx.backend->copy(whole.flat_view(b * total + at, {columns[r]}).raw(),
                        all.slice(static_cast<int64_t>(r) * rows + b, static_cast<int64_t>(r) * rows + b + 1).raw(), bytes(columns[r]),
                        *ctx.stream);
  return whole;
}

}  // namespace trireme
