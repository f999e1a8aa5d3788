// Attention by cuDNN in bf16 and f16: plans by shape, made at first use and kept, and a memory of what cuDNN
// declines.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/context.h"
#include "core/ops/attention.h"

namespace trireme::cuda {

struct CudnnAttentionOptions {
  /// Two backward passes of the same tensors give the same bits. cuDNN then holds a T x T matrix of 2 bytes
  /// an element for each head, so backward goes over the batch in parts; otherwise it adds to dq with atomic
  /// additions.
  bool deterministic = true;
  int64_t max_part_bytes = int64_t{2} << 30;  // of those matrices, for one part; a part that can't be made smaller takes up to four times that
};

class CudnnAttention {
 public:
  CudnnAttention();
  ~CudnnAttention();

  // As AttentionForwardKernel and AttentionBackwardKernel, lse being the natural logarithm. False where cuDNN
  // declines: what was to be written is then undefined. For one path explicitly: these, or those of
  // attention_flash.h.
  bool forward(Context& ctx, const Tensor& qkv, const AttentionShape& shape, Tensor& out, Tensor& lse);
  bool backward(Context& ctx, const Tensor& qkv, const Tensor& out, const Tensor& lse, const Tensor& d_out,
                const AttentionShape& shape, Tensor& d_qkv);

  /// A line for each plan that was asked for: its graph, and cuDNN's engine and workspace or why it declined.
  std::string report() const;

  CudnnAttentionOptions options;  // to be changed between calls alone

 private:
  class Plans;
  std::unique_ptr<Plans> plans_;
};

}  // namespace trireme::cuda
