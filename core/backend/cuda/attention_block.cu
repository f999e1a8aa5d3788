// Attention in blocks on GPUs: by our own kernels (attention_flash.h), whose results are merged here.
#include "core/ops/attention_block.h"

#include "core/backend/cuda/attention_flash.h"
#include "core/backend/cuda/device.cuh"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 256;

struct MergeOperands {
  const float *out, *lse;        // [B, n, H, D] and [B, H, n]
  float *total_out, *total_lse;  // [B, T, H, D] and [B, H, T]; queries [begin, begin + n) of T
  int64_t n, tokens, begin;
  int heads, head_dim;
};

/// total = (total_w total + w out) / (total_w + w), w being exp(lse); a warp for each head of a token.
__global__ void merge_kernel(int64_t rows, MergeOperands x) {
  const int64_t row = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp;  // (b * n + i) * H + h
  const int lane = threadIdx.x % kWarp;
  if (row >= rows) return;
  const int64_t token = row / x.heads, h = row % x.heads, b = token / x.n, i = token % x.n;
  const float lse = x.lse[(b * x.heads + h) * x.n + i];
  float& total_lse_at = x.total_lse[(b * x.heads + h) * x.tokens + x.begin + i];
  const float total_lse = total_lse_at;
  const float maximum = fmaxf(lse, total_lse);
  const float w = expf(lse - maximum), total_w = expf(total_lse - maximum), sum = w + total_w;
  const float factor = w / sum, total_factor = total_w / sum;
  const float* out = x.out + row * x.head_dim;
  float* total = x.total_out + ((b * x.tokens + x.begin + i) * x.heads + h) * x.head_dim;
  for (int d = lane; d < x.head_dim; d += kWarp) total[d] = total_factor * total[d] + factor * out[d];
  __syncwarp();  // all lanes have read total_lse
  if (lane == 0) total_lse_at = maximum + logf(sum);
}

void merge(Context& ctx, const Tensor& out, const Tensor& lse, const AttentionBlock& block, Tensor& total_out,
           Tensor& total_lse) {
  const int64_t rows = lse.numel();
  if (rows == 0) return;
  const MergeOperands x{.out = elements<float>(out),
                        .lse = elements<float>(lse),
                        .total_out = elements<float>(total_out),
                        .total_lse = elements<float>(total_lse),
                        .n = block.queries.size(),
                        .tokens = block.shape.tokens,
                        .begin = block.queries.begin,
                        .heads = static_cast<int>(block.shape.heads),
                        .head_dim = static_cast<int>(block.shape.head_dim)};
  merge_kernel<<<static_cast<unsigned>(ceil_div(rows * kWarp, kThreads)), kThreads, 0, raw_stream(ctx)>>>(
      rows, x);
  check_launch("merging attention");
}

}  // namespace

void add_attention_block(Backend& backend) {
  backend.add_kernel<AttentionBlockForwardKernel>(&flash_forward_block);
  backend.add_kernel<AttentionBlockBackwardKernel>(&flash_backward_block);
  backend.add_kernel<AttentionMergeKernel>(&merge);
}

}  // namespace trireme::cuda
