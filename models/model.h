// Model: what the trainer, the generator and the pipeline know of a model: a row of units, run in order.
#pragma once

#include <memory>
#include <vector>

#include "core/nn/module.h"
#include "models/model_config.h"
#include "parallel/context_chunks.h"
#include "parallel/layers/block.h"
#include "parallel/model_layout.h"

namespace trireme {

/// One micro-batch on the device.
struct MicroBatch {
  Tensor tokens;       // i32 [B, T]
  Tensor targets;      // i32 [B, T]; -1 counts nothing. Undefined: no loss is asked for
  float scale = 1.0f;  // the loss is scale * the sum over tokens
};

/// What is handed from one unit to the next; a pipeline sends it from stage to stage.
struct Activation {
  nn::Residual stream;
  Tensor loss;    // f32 [1], of the last unit
  Tensor logits;  // f32 [B, V], of the last unit in generation
};

/// A micro-batch, or a part of its samples, on its way through units of a model.
struct Passage {
  nn::Travel travel;
  MicroBatch batch;
  Tensor loss;  // f32 [1], after the last unit
};

/// Keys and values of every layer, for generation.
struct GenerationCache {
  std::vector<LayerCache> layers;
  int64_t length = 0;  // tokens of each text so far, on all context ranks together
};

/// What comes next of texts that are generated. Context ranks have their chunks of a prompt, and all of them each token
/// after it.
struct NewTokens {
  Tensor tokens;         // i32 [B, T], those here
  ContextChunks chunks;  // which ones of the new tokens and the padding behind them these are
  int64_t num_here = 0;  // of each text, without padding: the first ones
  int64_t keep = 0;      // of each text, whose keys this context rank keeps: the first ones

  /// Without context ranks.
  static NewTokens whole(const Tensor& tokens) {
    const int64_t count = tokens.dim(1);
    return {tokens, {.tokens = count}, count, count};
  }
};

class Model : public Module {
 public:
  Model(ModelConfig config, const ModelLayout& layout) : config_(std::move(config)), layout_(layout) {}
  const ModelConfig& config() const { return config_; }
  const ModelLayout& layout() const { return layout_; }

  /// Units are what a pipeline cuts between: embedding, each block, and the classifier.
  virtual int64_t num_units() const = 0;
  /// What units [begin, end) use, each parameter once, in the order of use.
  virtual std::vector<Parameter*> unit_parameters(int64_t begin, int64_t end) const = 0;
  /// What units [begin, end) do with a passage, which outlives the slots; its stream is empty for unit 0. With context
  /// ranks the batch holds this rank's tokens alone (parallel/context_chunks.h); the loss is that of the tokens here.
  virtual void add_slots(nn::Slots& slots, Passage& passage, int64_t begin, int64_t end) = 0;
  /// Runs them.
  Activation run(Context& ctx, int64_t begin, int64_t end, Activation in, const MicroBatch& batch);
  Tensor loss(Context& ctx, const MicroBatch& batch) { return run(ctx, 0, num_units(), {}, batch).loss; }

  /// The same for generation: `text` follows what the cache holds, whose length the caller adds to afterwards; the last
  /// unit gives the logits after the last token here. Not for a layout with sequence parallelism.
  virtual Activation run_cached(Context& ctx, int64_t begin, int64_t end, Activation in, const NewTokens& text,
                                GenerationCache& cache) = 0;
  /// The logits f32 [B, V] after the last of `tokens` i32 [B, T], of a model that is whole on this rank.
  Tensor next_logits(Context& ctx, const Tensor& tokens, GenerationCache& cache);
  /// An empty cache for `batch` texts of up to config().context tokens.
  virtual GenerationCache make_cache(Context& ctx, int64_t batch) const = 0;

  /// Floating-point operations of forward and backward for one token of a sample of `tokens`: 6 N + 12 L C T
  /// (Chowdhery et al., PaLM, 2022, appendix B).
  double flops_per_token(int64_t tokens) const;

 private:
  ModelConfig config_;
  ModelLayout layout_;
};

/// The model that `config.kind` names; `config` resolved (see resolve_model). ConfigError when it can't be divided as
/// `layout` says.
std::unique_ptr<Model> make_model(const ModelConfig& config, const ModelLayout& layout = {});

}  // namespace trireme
