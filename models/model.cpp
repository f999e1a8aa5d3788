#include "models/model.h"

#include <utility>

#include "models/gpt.h"

namespace trireme {

Activation Model::run(Context& ctx, int64_t begin, int64_t end, Activation in, const MicroBatch& batch) {
  Passage passage{.travel = {.ctx = ctx, .stream = std::move(in.stream)}, .batch = batch, .loss = {}};
  nn::Slots slots;
  add_slots(slots, passage, begin, end);
  nn::run_slots(slots);
  return {std::move(passage.travel.settle()), std::move(passage.loss), {}};
}

Tensor Model::next_logits(Context& ctx, const Tensor& tokens, GenerationCache& cache) {
  const Tensor logits = run_cached(ctx, 0, num_units(), {}, NewTokens::whole(tokens), cache).logits;
  cache.length += tokens.dim(1);
  return logits;
}

double Model::flops_per_token(int64_t tokens) const {
  return 6.0 * static_cast<double>(num_parameters()) +
         12.0 * static_cast<double>(config_.layers * config_.width * tokens);
}

std::unique_ptr<Model> make_model(const ModelConfig& config, const ModelLayout& layout) {
  if (config.kind == "gpt") return std::make_unique<Gpt>(config, layout);
  throw ConfigError("model.kind '" + config.kind + "' is not known; the kinds are: gpt");
}

}  // namespace trireme
