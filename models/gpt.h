// GPT-2 (Radford et al., 2019): learned positions, pre-norm blocks, tied embeddings unless told otherwise.
#pragma once

#include <memory>
#include <vector>

#include "core/nn/embedding.h"
#include "models/model.h"

namespace trireme {

class Gpt : public Model {
 public:
  explicit Gpt(const ModelConfig& config, const ModelLayout& layout = {});

  int64_t num_units() const override { return static_cast<int64_t>(blocks_.size()) + 2; }
  std::vector<Parameter*> unit_parameters(int64_t begin, int64_t end) const override;
  void add_slots(nn::Slots& slots, Passage& passage, int64_t begin, int64_t end) override;
  Activation run_cached(Context& ctx, int64_t begin, int64_t end, Activation in, const NewTokens& text,
                        GenerationCache& cache) override;
  GenerationCache make_cache(Context& ctx, int64_t batch) const override;

 private:
  RowPlaces places_of(const Tensor& tokens) const;
  Tensor embed(Context& ctx, const Tensor& tokens, const TokenPositions& positions);
  Tensor loss_of(Context& ctx, const Tensor& h, const MicroBatch& batch);
  Tensor logits(Context& ctx, const Tensor& normed);
  Parameter& classifier_weight() const { return head_ ? head_->weight() : wte_.weight(); }
  bool is_block(int64_t unit) const { return unit > 0 && unit <= static_cast<int64_t>(blocks_.size()); }

  Placement vocab_;  // rows of the tables that tensor ranks divide
  nn::Embedding wte_;
  nn::Embedding wpe_;
  std::vector<std::unique_ptr<nn::Block>> blocks_;
  nn::LayerNorm ln_f_;
  std::unique_ptr<nn::Linear> head_;  // null when tied
};

}  // namespace trireme
