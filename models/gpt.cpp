#include "models/gpt.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "core/ops/classifier.h"
#include "core/ops/elementwise.h"

namespace trireme {
namespace {

constexpr float kInitStd = 0.02f;  // GPT-2's

nn::BlockConfig block_config(const ModelConfig& c) {
  nn::BlockConfig block;
  // Products that write to the residual stream start smaller, by the number of additions to it.
  const Init residual = Init::normal(kInitStd / std::sqrt(2.0f * static_cast<float>(c.layers)));
  block.attention = {c.width, c.heads, c.kv_heads, /*causal=*/true, c.bias, Init::normal(kInitStd), residual};
  block.hidden = c.ffn;
  block.dropout = static_cast<float>(c.dropout);
  block.recompute = c.recompute == "full"        ? nn::Recompute::full
                    : c.recompute == "selective" ? nn::Recompute::selective
                                                 : nn::Recompute::none;
  return block;
}

}  // namespace

Gpt::Gpt(const ModelConfig& config)
    : Model(config),
      wte_(this, "wte", config.vocab, config.width, Init::normal(kInitStd)),
      wpe_(this, "wpe", config.context, config.width, Init::normal(kInitStd)),
      blocks_([&] {
        std::vector<std::unique_ptr<nn::Block>> blocks;
        for (int64_t i = 0; i < config.layers; ++i)
          blocks.push_back(std::make_unique<nn::Block>(this, fmt::format("h.{}", i), block_config(config)));
        return blocks;
      }()),
      ln_f_(this, "ln_f", config.width, config.bias) {
  if (!config.tied)
    head_ = std::make_unique<nn::Linear>(this, "head", config.width, config.vocab, false, Init::normal(kInitStd));
}

Tensor Gpt::embed(Context& ctx, const Tensor& tokens, int64_t first_position) {
  if (const int64_t last = first_position + tokens.dim(1); last > config().context)
    throw ConfigError(fmt::format("{} tokens do not fit model.context = {}; shorten the text or batch.sequence", last,
                                  config().context));
  const Tensor x = wte_(ctx, tokens, &wpe_, first_position);
  return dropout(ctx, x, static_cast<float>(config().dropout), hash_name(wte_.name()), tokens.dim(0));
}

Activation Gpt::run(Context& ctx, int64_t begin, int64_t end, Activation in, const MicroBatch& batch) {
  const int64_t samples = batch.tokens.dim(0);
  for (int64_t unit = begin; unit < end; ++unit) {
    if (unit == 0) {
      in.stream = {embed(ctx, batch.tokens, 0), {}};
    } else if (unit <= static_cast<int64_t>(blocks_.size())) {
      in.stream = (*blocks_[unit - 1])(ctx, in.stream, samples);
    } else {
      const Tensor h = ln_f_(ctx, in.stream.x, in.stream.delta).normed;
      in.stream = {};
      in.loss = classifier_loss(ctx, h, classifier_weight(), batch.targets, batch.scale, config().true_vocab);
    }
  }
  return in;
}

Tensor Gpt::next_logits(Context& ctx, const Tensor& tokens, GenerationCache& cache) {
  const int64_t samples = tokens.dim(0), length = tokens.dim(1);
  nn::Residual stream{embed(ctx, tokens, cache.front().length), {}};
  for (size_t i = 0; i < blocks_.size(); ++i) stream = (*blocks_[i])(ctx, stream, samples, &cache[i]);
  // Only the last token of each text is wanted.
  const Tensor all = ln_f_(ctx, stream.x, stream.delta).normed;
  Tensor last = ctx.empty({samples, config().width}, all.dtype());
  for (int64_t b = 0; b < samples; ++b) {
    const Tensor row = all.slice((b + 1) * length - 1, (b + 1) * length);
    ctx.backend->copy(last.slice(b, b + 1).raw(), row.raw(), row.bytes(), *ctx.stream);
  }
  return cast(ctx, linear(ctx, last, classifier_weight(), nullptr), DType::f32);
}

GenerationCache Gpt::make_cache(Context& ctx, int64_t batch) const {
  const ModelConfig& c = config();
  GenerationCache cache(static_cast<size_t>(c.layers));
  const DType dtype = wte_.dtype();
  for (KvCache& layer : cache) {
    layer.keys = ctx.empty({batch, c.context, c.kv_heads, c.width / c.heads}, dtype);
    layer.values = ctx.empty({batch, c.context, c.kv_heads, c.width / c.heads}, dtype);
  }
  return cache;
}

}  // namespace trireme
