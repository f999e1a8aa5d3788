// classifier_part: the classifier where w is a part of the vocabulary, as two kernels a chunk of rows.
// Between them the ranks that hold the other parts exchange three numbers a row, never logits (Shoeybi et
// al., Megatron-LM, 2019, section 3). parallel/vocab_classifier.h does so.
#pragma once

#include <algorithm>

#include "core/op.h"

namespace trireme {

/// What is the same for all chunks. All ranks have the same h, targets, vocab and scale.
struct ClassifierPart {
  Tensor h, w, targets;            // [N, C], [n, C], i32 [N]
  int64_t first_row = 0;           // w's rows are the tokens from there on
  int64_t vocab = 0;               // of the whole; rows of w that are tokens >= vocab are padding
  float scale = 1.0f;              // of the loss
  Tensor loss_scale;               // f32 [1]: dh and dw are times this too; undefined: 1
  bool accumulate_weight = false;  // dw += instead of dw =
  Tensor losses;                   // f32 [N]: -log softmax[target], 0 where the target is -1
  Tensor loss;                     // f32 [1]: scale * their sum
  Tensor dh, dw;                   // of h's type, f32; both undefined: the loss alone

  /// How many rows of w are no padding.
  int64_t columns() const { return std::clamp<int64_t>(vocab - first_row, 0, w.dim(0)); }
};
/// Rows [begin, end) of h.
struct ClassifierPartChunk {
  int64_t begin = 0, end = 0;
  Tensor logits;    // [end - begin, n]
  Tensor sums;      // f32 [end - begin, 3], of a row: max of its logits here, sum of e^(logit - max), the
                    // target's logit or 0
  Tensor all_sums;  // f32 [parts, end - begin, 3]: those of all ranks

  int64_t rows() const { return end - begin; }
};

struct ClassifierPartPlan {
  int64_t chunk_rows = 0;
  DType logits_type = DType::f32;
};
/// How to cut h, with `columns` logits a row: into one chunk, or so that the logits of two suit the device. A
/// function of `columns` and of h, so the same on all ranks. More chunks would hide more of the exchange, but
/// each adds to all of dw, which takes longer. Throws as classifier_loss() does for targets outside [-1,
/// vocab).
struct ClassifierPartBegin {
  using Fn = ClassifierPartPlan(Context&, const ClassifierPart& part, int64_t columns);
};
/// logits = h w^T, and their sums.
struct ClassifierPartLogits {
  using Fn = void(Context&, const ClassifierPart& part, ClassifierPartChunk& chunk);
};
/// From all_sums: the chunk's losses, and after the last chunk the loss, the same bits on all ranks. Where dh
/// is defined the chunk's rows of dh = dlogits w, which is to be summed over the ranks, and dw += dlogits^T
/// h; logits are lost.
struct ClassifierPartGradient {
  using Fn = void(Context&, const ClassifierPart& part, ClassifierPartChunk& chunk);
};

}  // namespace trireme
