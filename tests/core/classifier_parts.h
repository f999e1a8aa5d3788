// The classifier with the table cut into parts, all on one rank, which hands the parts' numbers around by
// itself: so the op table sees the kernels that tensor ranks run, on any device.
#pragma once

#include <vector>

#include "core/ops/classifier_part.h"
#include "core/ops/elementwise.h"

namespace trireme {

class ClassifierOfParts : public Op {
 public:
  /// Part p has rows [bounds[p], bounds[p + 1]) of w.
  ClassifierOfParts(Parameter& w, float scale, int64_t vocab, std::vector<int64_t> bounds, int64_t chunk_rows)
      : parameter_(&w), scale_(scale), vocab_(vocab), bounds_(std::move(bounds)), chunk_rows_(chunk_rows) {}
  std::string_view name() const override { return "classifier_of_parts"; }
  std::span<Parameter* const> parameters() const override { return {&parameter_, 1}; }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    const bool accumulate = ctx.tape && parameter_->begin_accumulate();
    std::vector<ClassifierPart> parts;
    for (size_t p = 0; p + 1 < bounds_.size(); ++p) parts.push_back(make_part(ctx, inputs, p, accumulate));
    for (int64_t at = 0; at < inputs[0].dim(0); at += chunk_rows_) run_chunk(ctx, parts, at);
    if (ctx.tape) {
      for (size_t p = 1; p < parts.size(); ++p)
        ctx.kernel<AddKernel>()(ctx, parts[0].dh, parts[p].dh, parts[0].dh);
      saved.tensors = {parts[0].dh};
    }
    return {parts.back().loss};
  }
  Tensors backward_input(Context&, Saved& saved, Tensors) const override {
    return {std::move(saved.tensors[0]), Tensor()};
  }

 private:
  ClassifierPart make_part(Context& ctx, std::span<const Tensor> inputs, size_t p, bool accumulate) const {
    ClassifierPart part;
    part.h = inputs[0].detach();
    part.w = parameter_->data.slice(bounds_[p], bounds_[p + 1]);
    part.targets = inputs[1];
    part.first_row = bounds_[p];
    part.vocab = vocab_;
    part.scale = scale_;
    part.losses = ctx.empty({part.h.dim(0)});
    part.loss = ctx.empty({1});
    if (ctx.tape) {
      part.loss_scale = ctx.loss_scale;
      part.dh = ctx.empty(part.h.shape(), part.h.dtype());
      part.dw = parameter_->grad.slice(bounds_[p], bounds_[p + 1]);
      part.accumulate_weight = accumulate;
    }
    return part;
  }

  void run_chunk(Context& ctx, std::span<ClassifierPart> parts, int64_t at) const {
    const int64_t end = std::min(at + chunk_rows_, parts[0].h.dim(0)), rows = end - at;
    const Tensor all_sums = ctx.empty({static_cast<int64_t>(parts.size()), rows, 3});
    std::vector<ClassifierPartChunk> chunks;
    for (size_t p = 0; p < parts.size(); ++p) {
      const DType type = ctx.kernel<ClassifierPartBegin>()(ctx, parts[p], parts[p].w.dim(0)).logits_type;
      chunks.push_back({at, end, ctx.empty({rows, parts[p].w.dim(0)}, type),
                        all_sums.flat_view(static_cast<int64_t>(p) * rows * 3, {rows, 3}), all_sums});
      ctx.kernel<ClassifierPartLogits>()(ctx, parts[p], chunks[p]);
    }
    for (size_t p = 0; p < parts.size(); ++p) ctx.kernel<ClassifierPartGradient>()(ctx, parts[p], chunks[p]);
  }

  Parameter* parameter_;
  float scale_;
  int64_t vocab_;
  std::vector<int64_t> bounds_;
  int64_t chunk_rows_;
};

}  // namespace trireme
