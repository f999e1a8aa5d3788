// Model: what the trainer, the generator and the pipeline know of a model: a row of units, run in order.
#pragma once

#include <memory>
#include <vector>

#include "core/nn/block.h"
#include "core/nn/module.h"
#include "models/model_config.h"

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
  Tensor loss;  // f32 [1], of the last unit
};

/// Keys and values of every layer, for generation.
using GenerationCache = std::vector<KvCache>;

class Model : public Module {
 public:
  explicit Model(ModelConfig config) : config_(std::move(config)) {}
  const ModelConfig& config() const { return config_; }

  /// Units are what a pipeline cuts between: embedding, each block, and the classifier.
  virtual int64_t num_units() const = 0;
  /// Runs units [begin, end). `in` is empty for unit 0.
  virtual Activation run(Context& ctx, int64_t begin, int64_t end, Activation in, const MicroBatch& batch) = 0;
  Tensor loss(Context& ctx, const MicroBatch& batch) { return run(ctx, 0, num_units(), {}, batch).loss; }

  /// The logits f32 [B, V] after the last of `tokens` i32 [B, T], which follow what the cache holds.
  virtual Tensor next_logits(Context& ctx, const Tensor& tokens, GenerationCache& cache) = 0;
  /// An empty cache for `batch` texts of up to config().context tokens.
  virtual GenerationCache make_cache(Context& ctx, int64_t batch) const = 0;

  /// Floating-point operations of forward and backward for one token of a sample of `tokens`: 6 N + 12 L C T
  /// (Chowdhery et al., PaLM, 2022, appendix B).
  double flops_per_token(int64_t tokens) const;

 private:
  ModelConfig config_;
};

/// The model that `config.kind` names; `config` resolved (see resolve_model).
std::unique_ptr<Model> make_model(const ModelConfig& config);

}  // namespace trireme
