// The attention kernels of the GPU: cuDNN's where it has some for the shape, else our own.
#include "core/ops/attention.h"

#include "core/backend/cuda/attention_cudnn.h"
#include "core/backend/cuda/attention_flash.h"
#include "core/backend/cuda/kernels.h"

namespace trireme::cuda {
namespace {

void attention_forward(Context& ctx, const Tensor& qkv, const AttentionShape& shape, Tensor& out,
                       Tensor& lse) {
  if (!ctx.backend->state<CudnnAttention>().forward(ctx, qkv, shape, out, lse))
    flash_forward(ctx, qkv, shape, out, lse);
}

void attention_backward(Context& ctx, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                        const Tensor& d_out, const AttentionShape& shape, Tensor& d_qkv) {
  if (!ctx.backend->state<CudnnAttention>().backward(ctx, qkv, out, lse, d_out, shape, d_qkv))
    flash_backward(ctx, qkv, out, lse, d_out, shape, d_qkv);
}

}  // namespace

void add_attention_kernels(Backend& backend, bool deterministic) {
  backend.add_state(std::make_shared<CudnnAttention>());
  backend.state<CudnnAttention>().options.deterministic = deterministic;
  backend.add_kernel<AttentionForwardKernel>(&attention_forward);
  backend.add_kernel<AttentionBackwardKernel>(&attention_backward);
  add_attention_block(backend);
  add_attention_decode(backend);
}

}  // namespace trireme::cuda
