#include "models/gpt.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/ops/classifier.h"
#include "core/ops/elementwise.h"
#include "parallel/context_chunks.h"
#include "parallel/gather_columns.h"
#include "parallel/vocab_classifier.h"
#include "parallel/vocab_split.h"

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

Placement vocab_placement(int64_t vocab, const TensorParallel& tensor) {
  const VocabRows rows = split_vocab(vocab, tensor.size())[static_cast<size_t>(tensor.rank())];
  return Placement::split(0, vocab, rows.first, rows.end());
}

}  // namespace

Gpt::Gpt(const ModelConfig& config, const ModelLayout& layout)
    : Model(config, layout),
      vocab_(layout.tensor.size() == 1 ? Placement() : vocab_placement(config.vocab, layout.tensor)),
      wte_(this, "wte", config.vocab, config.width, Init::normal(kInitStd), vocab_),
      wpe_(this, "wpe", config.context, config.width, Init::normal(kInitStd)),
      blocks_([&] {
        std::vector<std::unique_ptr<nn::Block>> blocks;
        for (int64_t i = 0; i < config.layers; ++i)
          blocks.push_back(
              std::make_unique<nn::Block>(this, fmt::format("h.{}", i), block_config(config), layout));
        return blocks;
      }()),
      ln_f_(this, "ln_f", config.width, config.bias) {
  if (!config.tied)
    head_ = std::make_unique<nn::Linear>(this, "head", config.width, config.vocab, false,
                                         Init::normal(kInitStd), vocab_);
  if (layout.tensor.sequence())
    for (Parameter* p : ln_f_.parameters()) p->gradient_sum = GradientSum::batch_and_tensor;
  if (!layout.tensor.is_first())
    for (Parameter* p : parameters()) p->placement.primary = false;
}

std::vector<Parameter*> Gpt::unit_parameters(int64_t begin, int64_t end) const {
  std::vector<Parameter*> found;
  const auto add = [&](Parameter* p) {
    if (std::ranges::find(found, p) == found.end()) found.push_back(p);
  };
  for (int64_t unit = begin; unit < end; ++unit) {
    if (unit == 0) {
      add(&wte_.weight());
      add(&wpe_.weight());
    } else if (is_block(unit)) {
      for (Parameter* p : blocks_[static_cast<size_t>(unit - 1)]->parameters()) add(p);
    } else {
      for (Parameter* p : ln_f_.parameters()) add(p);
      add(&classifier_weight());
    }
  }
  return found;
}

RowPlaces Gpt::places_of(const Tensor& tokens) const {
  const TensorParallel& tensor = layout().tensor;
  const int64_t context = layout().context_size(), length = tokens.dim(1);
  if (context == 1 && !tensor.sequence()) return {};
  const int64_t rows = tokens.dim(0) * length;
  RowPlaces places{context * length, length, 0,
                   length,           0,      tensor.sequence() ? tensor.rank() * (rows / tensor.size()) : 0};
  if (context > 1) {
    const auto [early, late] = ContextChunks{context * length, context, layout().context->rank()}.ranges();
    places.first = early.begin;
    places.half = early.end - early.begin;
    places.second = late.begin;
  }
  return places;
}

Tensor Gpt::embed(Context& ctx, const Tensor& tokens, const TokenPositions& positions) {
  const TensorParallel& tensor = layout().tensor;
  Tensor x;
  if (tensor.size() == 1) {
    x = embedding(ctx, tokens, wte_.weight(), &wpe_.weight(), positions);
  } else {
    const TableRows held{vocab_.ranges[0].begin, config().vocab};
    x = tensor.leave(
        ctx, embedding(ctx, tokens, wte_.weight(), &wpe_.weight(), positions, held, tensor.is_first()));
  }
  return dropout(ctx, x, static_cast<float>(config().dropout), hash_name(wte_.name()), tokens.dim(0));
}

void Gpt::add_slots(nn::Slots& slots, Passage& p, int64_t begin, int64_t end) {
  const TensorParallel& tensor = layout().tensor;
  nn::Travel& t = p.travel;
  t.batch = p.batch.tokens.dim(0);
  t.ctx.random.rows = places_of(p.batch.tokens);
  for (int64_t unit = begin; unit < end; ++unit) {
    if (unit == 0) {
      slots.push_back([this, &t, &p] {
        const RowPlaces& rows = t.ctx.random.rows;
        const TokenPositions positions =
            rows.sequence > 0 ? TokenPositions(rows.first, rows.half, rows.second) : TokenPositions();
        t.stream = {embed(t.ctx, p.batch.tokens, positions), {}};
      });
    } else if (is_block(unit)) {
      blocks_[static_cast<size_t>(unit - 1)]->add_slots(slots, t);
    } else {
      slots.push_back([this, &t, &tensor] {
        const nn::Residual in = std::exchange(t.settle(), {});
        t.exchange = tensor.begin_enter(t.ctx, ln_f_(t.ctx, in.x, in.delta).normed);
      });
      slots.push_back([this, &t, &p] { p.loss = loss_of(t.ctx, t.exchange.finish(t.ctx), p.batch); });
    }
  }
}

Tensor Gpt::loss_of(Context& ctx, const Tensor& h, const MicroBatch& batch) {
  const TensorParallel& tensor = layout().tensor;
  if (tensor.size() == 1)
    return classifier_loss(ctx, h, classifier_weight(), batch.targets, batch.scale, config().true_vocab);
  return vocab_classifier_loss(ctx, h, classifier_weight(), batch.targets, batch.scale, config().true_vocab,
                               vocab_.ranges[0].begin, tensor.group());
}

Activation Gpt::run_cached(Context& ctx, int64_t begin, int64_t end, Activation in, const NewTokens& text,
                           GenerationCache& cache) {
  TRIREME_ASSERT(!layout().tensor.sequence(), "generation with sequence parallelism");
  const int64_t samples = text.tokens.dim(0), length = text.tokens.dim(1);
  for (int64_t unit = begin; unit < end; ++unit) {
    if (unit == 0) {
      const auto [early, late] = text.chunks.ranges();
      in.stream = {embed(ctx, text.tokens, {cache.length + early.begin, early.size(), cache.length + late.begin}), {}};
    } else if (is_block(unit)) {
      LayerCache& layer = cache.layers[static_cast<size_t>(unit - 1)];
      layer.part.keep = text.keep;
      in.stream = (*blocks_[static_cast<size_t>(unit - 1)])(ctx, in.stream, samples, &layer);
    } else {
      // Only the last token of each text is wanted, of those here.
      const Tensor all = ln_f_(ctx, in.stream.x, in.stream.delta).normed;
      in.stream = {};
      Tensor last = ctx.empty({samples, config().width}, all.dtype());
      const int64_t at = std::max<int64_t>(text.num_here - 1, 0);
      for (int64_t b = 0; b < samples; ++b) {
        const Tensor row = all.slice(b * length + at, b * length + at + 1);
        ctx.backend->copy(last.slice(b, b + 1).raw(), row.raw(), row.bytes(), *ctx.stream);
      }
      in.logits = logits(ctx, last);
    }
  }
  return in;
}

Tensor Gpt::logits(Context& ctx, const Tensor& normed) {
  const Tensor local = cast(ctx, linear(ctx, normed, classifier_weight(), nullptr), DType::f32);
  const TensorParallel& tensor = layout().tensor;
  if (tensor.size() == 1) return local;
  std::vector<int64_t> columns;
  for (const VocabRows& rows : split_vocab(config().vocab, tensor.size())) columns.push_back(rows.count);
  return gather_columns(ctx, local, columns, tensor.group());
}

GenerationCache Gpt::make_cache(Context& ctx, int64_t batch) const {
  const ModelConfig& c = config();
  GenerationCache cache{std::vector<LayerCache>(static_cast<size_t>(c.layers))};
  const int64_t ranks = layout().context_size(), head_dim = c.width / c.heads;
  for (size_t i = 0; i < cache.layers.size(); ++i) {
    const Tensor& weight = blocks_[i]->parameters().front()->data;
    if (!weight.defined()) continue;  // another stage's
    const int64_t heads = blocks_[i]->kv_heads();
    LayerCache& layer = cache.layers[i];
    if (ranks == 1) {
      const Shape shape{batch, c.context, heads, head_dim};
      layer.whole = {ctx.empty(shape, weight.dtype()), ctx.empty(shape, weight.dtype())};
    } else {
      layer.part.capacity = context_capacity(c.context, ranks);
      layer.part.kv = ctx.empty({batch * layer.part.capacity, 2 * heads * head_dim}, weight.dtype());
    }
  }
  return cache;
}

}  // namespace trireme
