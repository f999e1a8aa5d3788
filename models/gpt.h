// GPT-2 (Radford et al., 2019): learned positions, pre-norm blocks, tied embeddings unless told otherwise.
#pragma once

#include <memory>
#include <vector>

#include "core/nn/embedding.h"
#include "models/model.h"

namespace trireme {

class Gpt : public Model {
 public:
  explicit Gpt(const ModelConfig& config);

  int64_t num_units() const override { return static_cast<int64_t>(blocks_.size()) + 2; }
  Activation run(Context& ctx, int64_t begin, int64_t end, Activation in, const MicroBatch& batch) override;
  Tensor next_logits(Context& ctx, const Tensor& tokens, GenerationCache& cache) override;
  GenerationCache make_cache(Context& ctx, int64_t batch) const override;

 private:
  Tensor embed(Context& ctx, const Tensor& tokens, int64_t first_position);
  Parameter& classifier_weight() { return head_ ? head_->weight() : wte_.weight(); }

  nn::Embedding wte_;
  nn::Embedding wpe_;
  std::vector<std::unique_ptr<nn::Block>> blocks_;
  nn::LayerNorm ln_f_;
  std::unique_ptr<nn::Linear> head_;  // null when tied
};

}  // namespace trireme
