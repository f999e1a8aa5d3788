#include "parallel/vocab_classifier.h"

#include <fmt/format.h>

#include <array>

#include "core/ops/classifier_part.h"
#include "core/tape.h"

namespace trireme {
namespace {

/// Two chunks in turn: while the numbers of one are exchanged, the logits of the next are computed.
class ChunkPipeline {
 public:
  ChunkPipeline(Context& ctx, ClassifierPart& part, Group& group, int64_t max_chunk_rows)
      : ctx_(ctx), part_(part), group_(group), rows_(part.h.dim(0)) {
    const int64_t columns = (part.vocab + group.size() - 1) / group.size();  // of the whole, not of this rank
    const ClassifierPartPlan plan = ctx.kernel<ClassifierPartBegin>()(ctx, part, columns);
    chunk_rows_ = max_chunk_rows > 0 ? std::min(max_chunk_rows, plan.chunk_rows) : plan.chunk_rows;
    for (Buffers& b : buffers_) {
      if (&b != buffers_.data() && chunk_rows_ >= rows_) break;  // one chunk is all
      b.logits = ctx.empty({chunk_rows_, part.w.dim(0)}, plan.logits_type, MemoryClass::workspace);
      b.sums = ctx.empty({chunk_rows_, 3}, DType::f32, MemoryClass::workspace);
      if (group.size() > 1)
        b.all_sums = ctx.empty({group.size() * chunk_rows_ * 3}, DType::f32, MemoryClass::workspace);
    }
  }

  void run() {
    begin(0);
    for (int64_t at = 0; at < rows_; at += chunk_rows_) {
      if (at + chunk_rows_ < rows_) begin(at + chunk_rows_);
      finish(at);
    }
  }

 private:
  struct Buffers {
    Tensor logits, sums, all_sums;  // of chunk_rows_ rows
    ClassifierPartChunk chunk;
    Work exchange;
  };
  Buffers& buffers_of(int64_t begin) { return buffers_[static_cast<size_t>(begin / chunk_rows_ % 2)]; }

  void begin(int64_t at) {
    Buffers& b = buffers_of(at);
    ClassifierPartChunk& chunk = b.chunk;
    chunk.begin = at;
    chunk.end = std::min(at + chunk_rows_, rows_);
    chunk.logits = b.logits.slice(0, chunk.rows());
    chunk.sums = b.sums.slice(0, chunk.rows());
    ctx_.kernel<ClassifierPartLogits>()(ctx_, part_, chunk);
    const Shape all{group_.size(), chunk.rows(), 3};
    if (group_.size() == 1) {
      chunk.all_sums = chunk.sums.reshape(all);
      return;
    }
    chunk.all_sums = b.all_sums.flat_view(0, all);
    b.exchange = group_.all_gather(chunk.sums, chunk.all_sums, fmt::format("classifier, rows from {}", at),
                                   ctx_.stream);
  }

  void finish(int64_t at) {
    Buffers& b = buffers_of(at);
    b.exchange.wait(*ctx_.stream);
    ctx_.kernel<ClassifierPartGradient>()(ctx_, part_, b.chunk);
  }

  Context& ctx_;
  ClassifierPart& part_;
  Group& group_;
  int64_t rows_, chunk_rows_ = 0;
  std::array<Buffers, 2> buffers_;
};

/// Both gradients are made in forward, so B hands dh over and W has nothing left to do.
class VocabClassifierOp : public Op {
 public:
  VocabClassifierOp(Parameter& w, float scale, int64_t vocab, int64_t first_row, Group& group,
                    int64_t max_chunk_rows)
      : parameter_(&w),
        scale_(scale),
        vocab_(vocab),
        first_row_(first_row),
        group_(group),
        max_chunk_rows_(max_chunk_rows) {}
  std::string_view name() const override { return "vocab_classifier"; }
  std::span<Parameter* const> parameters() const override { return {&parameter_, 1}; }
  OpFlop flop(std::span<const Tensor> inputs) const override {
    return {6.0 * static_cast<double>(inputs[0].dim(0) * parameter_->shape.numel()), 0.0, 0.0};
  }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    ClassifierPart part;
    part.h = inputs[0].detach();
    part.w = parameter_->data;
    part.targets = inputs[1];
    part.first_row = first_row_;
    part.vocab = vocab_;
    part.scale = scale_;
    part.losses = ctx.empty({inputs[0].dim(0)}, DType::f32, MemoryClass::workspace);
    part.loss = ctx.empty({1});
    if (ctx.tape) {
      part.loss_scale = ctx.loss_scale;
      part.dh = ctx.empty(inputs[0].shape(), inputs[0].dtype());
      part.dw = parameter_->grad;
      part.accumulate_weight = parameter_->begin_accumulate();
      saved.tensors = {part.dh};
    }
    ChunkPipeline(ctx, part, group_, max_chunk_rows_).run();
    return {part.loss};
  }

  Tensors backward_input(Context&, Saved& saved, Tensors) const override {
    return {std::move(saved.tensors[0]), Tensor()};
  }

 private:
  Parameter* parameter_;
  float scale_;
  int64_t vocab_, first_row_;
  Group& group_;
  int64_t max_chunk_rows_;
};

}  // namespace

Tensor vocab_classifier_loss(Context& ctx, const Tensor& h, Parameter& w_local, const Tensor& targets,
                             float scale, int64_t vocab, int64_t first_row, Group& tensor,
                             int64_t max_chunk_rows) {
  TRIREME_ASSERT(h.rank() == 2 && h.dim(0) > 0 && w_local.shape.rank() == 2 && h.dim(1) == w_local.shape[1] &&
                     targets.numel() == h.dim(0),
                 fmt::format("classifier {}: h {}, w {}, targets {} do not fit", w_local.name,
                             to_string(h.shape()), to_string(w_local.shape), to_string(targets.shape())));
  TRIREME_ASSERT(
      vocab > 0 && first_row >= 0 && w_local.shape[0] > 0,
      fmt::format("classifier {}: rows from {} of a vocabulary of {}", w_local.name, first_row, vocab));
  return apply(ctx,
               std::make_shared<VocabClassifierOp>(w_local, scale, vocab, first_row, tensor, max_chunk_rows),
               {h, targets})[0];
}

}  // namespace trireme
