#include "parallel/ring_attention.h"

#include <fmt/format.h>

#include <array>

#include "core/ops/attention_block.h"
#include "core/ops/elementwise.h"

namespace trireme {
namespace {

constexpr int kKeysTag = 1, kGradientsTag = 2;

class RingAttentionOp : public Op {
 public:
  RingAttentionOp(const AttentionShape& shape, Group& ring) : shape_(shape), ring_(ring) {}
  std::string_view name() const override { return "ring_attention"; }
  OpFlop flop(std::span<const Tensor>) const override {  // of this rank's queries, whose keys are those of all ranks
    const double product = shape_.product_flop() * ring_.size();
    return {2.0 * product, 5.0 * product, 0.0};
  }

  Tensors forward(Context& ctx, std::span<const Tensor> inputs, Saved& saved) const override {
    const Tensor& qkv = inputs[0];
    Tensor held = pack_keys(ctx, qkv), spare = ctx.empty(held.shape(), held.dtype());
    Tensor total = ctx.empty({qkv.dim(0), query_width()}),
           lse = ctx.empty({shape_.batch, shape_.heads, shape_.tokens});
    for (int step = 0; step < ring_.size(); ++step) {
      const Exchange exchange = begin_exchange(ctx, step, held, spare);
      attend(ctx, qkv, held, step, total, lse);
      exchange.wait(*ctx.stream);
      std::swap(held, spare);
    }
    Tensor out = total;
    if (qkv.dtype() != DType::f32) {
      out = ctx.empty(total.shape(), qkv.dtype());
      ctx.kernel<CastKernel>()(ctx, total, out);
    }
    saved.tensors = {qkv, out, lse};
    return {out};
  }

  // The gradients of one rank's keys begin at the rank after it and follow the keys round the ring; each rank
  // adds its part, and the owner adds the sum to its own. A part is computed while the sum of the ranks
  // before is on its way.
  Tensors backward_input(Context& ctx, Saved& saved, Tensors dout) const override {
    const auto& [qkv, out, lse] = std::tie(saved.tensors[0], saved.tensors[1], saved.tensors[2]);
    Tensor held = pack_keys(ctx, qkv), spare = ctx.empty(held.shape(), held.dtype());
    Tensor dq = ctx.zeros(out.shape()), own = ctx.zeros(held.shape());
    Work sent;
    for (int step = 0; step < ring_.size(); ++step) {
      const Exchange exchange = begin_exchange(ctx, step, held, spare);
      Tensor part = step == 0 ? own : ctx.zeros(held.shape());
      const Tensor others = step < 2 ? Tensor() : ctx.empty(held.shape());
      const Work received = others.defined() ? receive_gradients(ctx, others) : Work();
      ctx.kernel<AttentionBlockBackwardKernel>()(ctx, qkv, held, out, lse, dout[0], block_at(step), dq, part);
      if (step > 0) {
        received.wait(*ctx.stream);
        if (others.defined()) ctx.kernel<AddKernel>()(ctx, others, part, part);
        sent.wait(*ctx.stream);
        sent = ring_.send(part, next(), kGradientsTag, "gradients of keys and values", ctx.stream);
      }
      exchange.wait(*ctx.stream);
      std::swap(held, spare);
    }
    const Tensor others = ctx.empty(own.shape());
    receive_gradients(ctx, others).wait(*ctx.stream);
    ctx.kernel<AddKernel>()(ctx, own, others, own);
    sent.wait(*ctx.stream);

    Tensor d_qkv = ctx.empty(qkv.shape(), qkv.dtype());
    ctx.kernel<CopyColumnsKernel>()(ctx, dq, 0, query_width(), d_qkv, 0);
    ctx.kernel<CopyColumnsKernel>()(ctx, own, 0, key_width(), d_qkv, query_width());
    return {d_qkv};
  }

 private:
  struct Exchange {
    Work sent, received;
    void wait(Stream& stream) const {
      received.wait(stream);
      sent.wait(stream);
    }
  };

  int next() const { return (ring_.rank() + 1) % ring_.size(); }
  int previous() const { return (ring_.rank() + ring_.size() - 1) % ring_.size(); }
  int64_t query_width() const { return shape_.heads * shape_.head_dim; }
  int64_t key_width() const { return 2 * shape_.kv_heads * shape_.head_dim; }  // and values

  /// This rank's keys and values, [B * T / c, 2K * D].
  Tensor pack_keys(Context& ctx, const Tensor& qkv) const {
    Tensor kv = ctx.empty({qkv.dim(0), key_width()}, qkv.dtype());
    ctx.kernel<CopyColumnsKernel>()(ctx, qkv, query_width(), key_width(), kv, 0);
    return kv;
  }

  /// The keys of this step go on to the next rank, those of the next step come; nothing in the last step.
  Exchange begin_exchange(Context& ctx, int step, const Tensor& held, const Tensor& spare) const {
    if (step + 1 == ring_.size()) return {};
    Exchange exchange{ring_.send(held, next(), kKeysTag, "keys and values", ctx.stream),
                      ring_.recv(spare, previous(), kKeysTag, "keys and values", ctx.stream)};
    exchange.sent.wait_until_issued();
    exchange.received.wait_until_issued();
    return exchange;
  }
  Work receive_gradients(Context& ctx, const Tensor& to) const {
    return ring_.recv(to, previous(), kGradientsTag, "gradients of keys and values", ctx.stream);
  }

  /// Which queries meet which keys in `step`, when this rank holds the keys of the rank that many places
  /// before it.
  AttentionBlock block_at(int step) const {
    const TokenRange all{0, shape_.tokens}, first{0, shape_.tokens / 2},
        second{shape_.tokens / 2, shape_.tokens};
    AttentionBlock block{shape_, shape_.tokens, all, all};
    if (!shape_.causal || step == 0) return block;
    block.shape.causal = false;
    if (step <= ring_.rank())  // keys of a lower rank: their second chunk comes after all queries
      block.keys = first;
    else  // of a higher rank: both chunks come after the first queries, and before the second ones
      block.queries = second;
    return block;
  }

  /// Writes (in step 0) or merges the results of `step` into those so far.
  void attend(Context& ctx, const Tensor& qkv, const Tensor& kv, int step, Tensor& total,
              Tensor& total_lse) const {
    const AttentionBlock block = block_at(step);
    const auto forward = ctx.kernel<AttentionBlockForwardKernel>();
    if (step == 0) return forward(ctx, qkv, kv, block, total, total_lse);
    Tensor out = ctx.empty({shape_.batch * block.queries.size(), query_width()});
    Tensor lse = ctx.empty({shape_.batch, shape_.heads, block.queries.size()});
    forward(ctx, qkv, kv, block, out, lse);
    ctx.kernel<AttentionMergeKernel>()(ctx, out, lse, block, total, total_lse);
  }

  AttentionShape shape_;
  Group& ring_;
};

}  // namespace

void connect_ring(const Context& ctx, Group& ring) {
  const int next = (ring.rank() + 1) % ring.size(), previous = (ring.rank() + ring.size() - 1) % ring.size();
  const Tensor sent = ctx.zeros({1}, DType::u8, MemoryClass::workspace), received = ctx.zeros({1}, DType::u8, MemoryClass::workspace);
  for (const int tag : {kKeysTag, kGradientsTag}) {
    const std::array works{ring.send(sent, next, tag, "connection", ctx.stream), ring.recv(received, previous, tag, "connection", ctx.stream)};
    for (const Work& work : works) work.wait();
  }
}

Tensor ring_attention(Context& ctx, const Tensor& qkv, const AttentionShape& shape, Group& ring) {
  if (ring.size() == 1) return attention(ctx, qkv, shape);
  check_attention_shape(qkv, shape);
  TRIREME_ASSERT(
      !shape.causal || shape.tokens % 2 == 0,
      fmt::format("ring_attention: {} tokens a rank are not two chunks of one length", shape.tokens));
  return apply(ctx, std::make_shared<RingAttentionOp>(shape, ring), {qkv})[0];
}

}  // namespace trireme
