#include "parallel/layers/block.h"

#include "core/ops/elementwise.h"
#include "core/tape.h"

namespace trireme::nn {

Block::Block(Module* parent, std::string name, const BlockConfig& config, const ModelLayout& layout)
    : Module(parent, std::move(name)),
      config_(config),
      tensor_(layout.tensor),
      ln_1_(this, "ln_1", config.attention.width, config.attention.bias),
      attn_(this, "attn", config.attention, layout),
      ln_2_(this, "ln_2", config.attention.width, config.attention.bias),
      mlp_(this, "mlp",
           {config.attention.width, config.hidden, config.attention.bias, config.attention.init,
            config.attention.proj_init, config.recompute == Recompute::selective},
           layout) {
  if (tensor_.sequence())  // each rank norms its own rows
    for (const Module* norm : {static_cast<Module*>(&ln_1_), static_cast<Module*>(&ln_2_)})
      for (Parameter* p : norm->parameters()) p->gradient_sum = GradientSum::batch_and_tensor;
}

Residual Block::operator()(Context& ctx, const Residual& in, int64_t batch, KvCache* cache) {
  if (config_.recompute != Recompute::full || !ctx.tape) return forward(ctx, in, batch, cache);
  const auto segment = [this, batch](Context& inner, std::span<const Tensor> t) {
    Residual out = forward(inner, {t[0], t[1]}, batch, nullptr);
    return Tensors{out.x, out.delta};
  };
  Tensors out = recompute(ctx, name(), segment, {in.x, in.delta});
  return {out[0], out[1]};
}

Residual Block::forward(Context& ctx, const Residual& in, int64_t batch, KvCache* cache) {
  auto [x, normed] = ln_1_(ctx, in.x, in.delta);
  Tensor a = tensor_.leave(ctx, attn_(ctx, tensor_.enter(ctx, normed), batch, cache));
  a = dropout(ctx, a, config_.dropout, hash_name(attn_.name()), batch);
  auto [x2, normed2] = ln_2_(ctx, x, a);
  Tensor m = tensor_.leave(ctx, mlp_(ctx, tensor_.enter(ctx, normed2)));
  m = dropout(ctx, m, config_.dropout, hash_name(mlp_.name()), batch);
  return {x2, m};
}

}  // namespace trireme::nn
