#include "parallel/layers/block.h"

#include <algorithm>
#include <utility>

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

void run_slots(const Slots& slots) {
  for (const auto& slot : slots) slot();
}

void run_in_turns(const Slots& a, const Slots& b) {
  for (size_t i = 0; i < std::max(a.size(), b.size() + 1); ++i) {
    if (i < a.size()) a[i]();
    if (i > 0 && i - 1 < b.size()) b[i - 1]();
  }
}

Residual& Travel::settle() {
  if (delta.defined()) stream.delta = std::exchange(after_delta, nullptr)(delta.finish(ctx));
  return stream;
}

void Block::add_slots(Slots& slots, Travel& t) {
  if (config_.recompute == Recompute::full && t.ctx.tape) {
    slots.push_back([this, &t] { t.stream = (*this)(t.ctx, t.settle(), t.batch); });
  } else {
    add_parts(slots, t);
  }
}

void Block::add_parts(Slots& slots, Travel& t) {
  slots.push_back([this, &t] {
    const Residual in = std::exchange(t.settle(), {});
    auto [x, normed] = ln_1_(t.ctx, in.x, in.delta);
    t.stream.x = x;
    t.exchange = tensor_.begin_enter(t.ctx, normed);
  });
  slots.push_back([this, &t] { t.qkv = attn_.project(t.ctx, t.exchange.finish(t.ctx)); });
  slots.push_back([this, &t] {
    const Tensor qkv = std::exchange(t.qkv, {});
    t.exchange = tensor_.begin_leave(t.ctx, attn_.attend(t.ctx, qkv, t.batch, t.cache));
  });
  slots.push_back([this, &t] {
    const Tensor a = dropout(t.ctx, t.exchange.finish(t.ctx), config_.dropout, hash_name(attn_.name()), t.batch);
    auto [x, normed] = ln_2_(t.ctx, std::exchange(t.stream.x, {}), a);
    t.stream.x = x;
    t.exchange = tensor_.begin_enter(t.ctx, normed);
  });
  slots.push_back([this, &t] {
    t.delta = tensor_.begin_leave(t.ctx, mlp_(t.ctx, t.exchange.finish(t.ctx)));
    t.after_delta = [this, &t](const Tensor& m) {
      return dropout(t.ctx, m, config_.dropout, hash_name(mlp_.name()), t.batch);
    };
  });
}

Residual Block::operator()(Context& ctx, const Residual& in, int64_t batch, LayerCache* cache) {
  if (config_.recompute != Recompute::full || !ctx.tape) return forward(ctx, in, batch, cache);
  const auto segment = [this, batch](Context& inner, std::span<const Tensor> t) {
    Residual out = forward(inner, {t[0], t[1]}, batch, nullptr);
    return Tensors{out.x, out.delta};
  };
  Tensors out = recompute(ctx, name(), segment, {in.x, in.delta});
  return {out[0], out[1]};
}

Residual Block::forward(Context& ctx, const Residual& in, int64_t batch, LayerCache* cache) {
  Travel travel{.ctx = ctx, .batch = batch, .stream = in, .cache = cache};
  Slots slots;
  add_parts(slots, travel);
  run_slots(slots);
  return travel.settle();
}

}  // namespace trireme::nn
