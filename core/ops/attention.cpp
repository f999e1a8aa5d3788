// The attention operation: checks shapes, records what backward needs, and calls the device's kernels.
#include "core/ops/attention.h"

#include <fmt/format.h>

namespace trireme {
namespace {

constexpr int64_t kMaxHeadDim = 256;

class AttentionOp : public Op {
 public:
  explicit AttentionOp(const AttentionShape& shape) : shape_(shape) {}
  std::string_view name() const override { return "attention"; }
  OpFlop flop(std::span<const Tensor>) const override { return {2.0 * shape_.product_flop(), 5.0 * shape_.product_flop(), 0.0}; }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    const Tensor& qkv = inputs[0];
    Tensor out = ctx.empty({qkv.dim(0), shape_.heads * shape_.head_dim}, qkv.dtype());
    Tensor lse = ctx.empty({shape_.batch, shape_.heads, shape_.tokens});
    ctx.kernel<AttentionForwardKernel>()(ctx, qkv, shape_, out, lse);
    saved.tensors = {qkv, out, lse};
    return {out};
  }

  Tensors backward_input(Context& ctx, Saved& saved, Tensors dout) const override {
    const auto& [qkv, out, lse] = std::tie(saved.tensors[0], saved.tensors[1], saved.tensors[2]);
    Tensor d_qkv = ctx.empty(qkv.shape(), qkv.dtype());
    ctx.kernel<AttentionBackwardKernel>()(ctx, qkv, out, lse, dout[0], shape_, d_qkv);
    return {d_qkv};
  }

 private:
  AttentionShape shape_;
};

}  // namespace

void check_attention_shape(const Tensor& qkv, const AttentionShape& s) {
  if (s.kv_heads < 1 || s.heads % s.kv_heads != 0)
    throw ConfigError(
        fmt::format("attention: {} query heads are not a multiple of {} key-value heads; choose a number "
                    "of key-value heads that divides the number of heads",
                    s.heads, s.kv_heads));
  if (s.head_dim < 1 || s.head_dim > kMaxHeadDim)
    throw ConfigError(
        fmt::format("attention: heads of 1 to {} elements are supported, got {}; change the number of "
                    "heads or the model's width",
                    kMaxHeadDim, s.head_dim));
  TRIREME_ASSERT(qkv.shape() == Shape({s.batch * s.tokens, s.qkv_width()}),
                 fmt::format("attention: qkv is {}, but {} samples of {} tokens, {} + 2 * {} heads of {}",
                             to_string(qkv.shape()), s.batch, s.tokens, s.heads, s.kv_heads, s.head_dim));
}

Tensor attention(Context& ctx, const Tensor& qkv, const AttentionShape& shape) {
  check_attention_shape(qkv, shape);
  return apply(ctx, std::make_shared<AttentionOp>(shape), {qkv})[0];
}

Tensor attention_cached(Context& ctx, const Tensor& qkv, const AttentionShape& shape, KvCache& cache) {
  check_attention_shape(qkv, shape);
  TRIREME_ASSERT(shape.causal,
                 "attention_cached: later tokens are not in the cache, so attention must be causal");
  const int64_t capacity = cache.keys.dim(1);
  TRIREME_ASSERT(cache.keys.shape() == Shape({shape.batch, capacity, shape.kv_heads, shape.head_dim}) &&
                     cache.values.shape() == cache.keys.shape() && cache.keys.dtype() == qkv.dtype(),
                 fmt::format("attention_cached: keys of {} {} in the cache do not fit qkv of {} {}",
                             to_string(cache.keys.shape()), name_of(cache.keys.dtype()),
                             to_string(qkv.shape()), name_of(qkv.dtype())));
  if (cache.length + shape.tokens > capacity)
    throw ConfigError(
        fmt::format("attention: {} tokens and {} new ones exceed the context length of {}; generate "
                    "fewer tokens, or from a shorter prompt",
                    cache.length, shape.tokens, capacity));
  Tensor out = ctx.empty({qkv.dim(0), shape.heads * shape.head_dim}, qkv.dtype());
  ctx.kernel<AttentionCachedKernel>()(ctx, qkv, shape, cache, out);
  cache.length += shape.tokens;
  return out;
}

}  // namespace trireme
