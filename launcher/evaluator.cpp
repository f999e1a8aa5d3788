#include "launcher/evaluator.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

namespace trireme {

double Evaluation::perplexity() const { return std::exp(loss); }

std::optional<double> Evaluation::bits_per_byte() const {
  if (!bytes || *bytes == 0) return std::nullopt;
  return loss * static_cast<double>(tokens) / static_cast<double>(*bytes) / std::numbers::ln2;
}

Evaluator::Evaluator(std::vector<WeightedDataset> sources, const BatchGeometry& geometry, int64_t max_samples,
                     std::vector<int32_t> token_bytes)
    : loader_(std::move(sources), geometry, max_samples), token_bytes_(std::move(token_bytes)) {}

int32_t Evaluator::bytes_of(int32_t token) const {
  if (static_cast<size_t>(token) >= token_bytes_.size())
    throw ConfigError(fmt::format("validation data: token {} is not one of the tokenizer's {}; it was made with another one "
                                  "(set data.tokenizer to that, or prepare the data again)",
                                  token, token_bytes_.size()));
  return token_bytes_[static_cast<size_t>(token)];
}

Evaluation Evaluator::run(Context ctx, ParallelModel& model, Group& world) {
  ctx.tape = nullptr;
  ctx.gradients = nullptr;
  ctx.training = false;
  std::array<double, 3> sums{};  // loss, tokens, bytes
  std::vector<Tensor> losses;    // of one micro-batch each; read at the end, so that the device never waits for the host
  loader_.rewind();
  while (std::optional<Batch> batch = loader_.next()) {
    const int64_t samples = batch->num_samples;
    const Shape shape{samples, model.sequence_here(batch->sequence)};
    const std::vector<int32_t> targets = model.tokens_here(batch->targets, samples);
    const MicroBatch micro{ctx.from_host<int32_t>(model.tokens_here(batch->tokens, samples), shape),
                           ctx.from_host<int32_t>(targets, shape), 1.0f};
    const Tensor loss = model.loss(ctx, micro);
    if (!loss.defined()) continue;
    losses.push_back(loss);
    for (int32_t t : targets) {
      if (t < 0) continue;
      sums[1] += 1;
      if (!token_bytes_.empty()) sums[2] += bytes_of(t);
    }
  }
  std::vector<float> values(losses.size());
  for (size_t i = 0; i < losses.size(); ++i) ctx.backend->copy(&values[i], losses[i].raw(), sizeof(float), *ctx.stream);
  ctx.stream->synchronize();
  for (float value : values) sums[0] += value;
  const auto host = std::make_shared<Storage>(nullptr, sums.data(), sizeof sums);
  world.all_reduce(Tensor(host, 0, {static_cast<int64_t>(sums.size())}, DType::f64, Device{}), ReduceOp::sum, "evaluation").wait();
  Evaluation result;
  result.tokens = static_cast<int64_t>(sums[1]);
  result.loss = sums[0] / std::max(1.0, sums[1]);
  if (!token_bytes_.empty()) result.bytes = static_cast<int64_t>(sums[2]);
  return result;
}

}  // namespace trireme
