// A model of one's own: embedding, an MLP with squared_relu, and a classifier, trained to predict the
// next number of the sequence x -> (5 x + 3) mod 64. Exit status 1 when it does not learn that.
#include <cstdio>
#include <vector>

#include "core/nn/buckets.h"
#include "core/nn/embedding.h"
#include "core/nn/linear.h"
#include "core/ops/classifier.h"
#include "core/tape.h"
#include "optim/kernels.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "squared_relu.h"

using namespace trireme;

namespace {

constexpr int64_t kVocab = 64, kWidth = 32, kHidden = 128;
constexpr int64_t kBatch = 4, kTokens = 16, kSteps = 60;

/// Declares its layers and writes forward; gradients come from the tape.
class NextNumber : public Module {
 public:
  Tensor loss(Context& ctx, const Tensor& tokens_BT, const Tensor& targets_N) {
    const Tensor x_NC = embed_(ctx, tokens_BT);
    const Tensor h_NC = down_(ctx, custom::squared_relu(ctx, up_(ctx, x_NC)));
    const float mean = 1.0f / static_cast<float>(targets_N.numel());
    return classifier_loss(ctx, h_NC, head_.weight(), targets_N, mean, kVocab);
  }

 private:
  nn::Embedding embed_{this, "embed", kVocab, kWidth, Init::normal(0.5f)};
  nn::Linear up_{this, "up", kWidth, kHidden, true, Init::normal(0.1f)};
  nn::Linear down_{this, "down", kHidden, kWidth, true, Init::normal(0.1f)};
  nn::Linear head_{this, "head", kWidth, kVocab, false, Init::normal(0.1f)};
};

/// Samples that start at another number each step, and what follows each token.
void make_batch(int64_t step, std::vector<int32_t>& tokens, std::vector<int32_t>& targets) {
  tokens.clear();
  targets.clear();
  for (int64_t b = 0; b < kBatch; ++b) {
    auto x = static_cast<int32_t>((step * kBatch + b) * 7 % kVocab);
    for (int64_t t = 0; t < kTokens; ++t) {
      tokens.push_back(x);
      x = static_cast<int32_t>((5 * x + 3) % kVocab);
      targets.push_back(x);
    }
  }
}

}  // namespace

int main() {
  Engine engine(make_cpu_backend());
  register_optimizer_kernels(engine.backend());
  custom::add_squared_relu_kernels(engine.backend());
  Context ctx = engine.context();
  ctx.training = true;

  NextNumber model;
  const std::vector<Parameter*> parameters = model.parameters();
  std::vector<Bucket> buckets = allocate_parameters(ctx, parameters, /*seed=*/1);
  std::vector<Shard> shards;
  for (const Bucket& bucket : buckets) shards.push_back(make_shard(bucket, 0, bucket.numel));

  OptimConfig config;
  config.lr = 1e-2;
  config.weight_decay = 0.0;
  const auto optimizer = make_optimizer(config);
  optimizer->attach(ctx, shards);
  std::printf("%lld parameters\n", static_cast<long long>(model.num_parameters()));

  std::vector<int32_t> tokens, targets;
  float first = 0.0f, last = 0.0f;
  for (int64_t step = 1; step <= kSteps; ++step) {
    make_batch(step, tokens, targets);
    for (Parameter* p : parameters) p->grad_written = false;

    Tape tape;
    Context recording = ctx;
    recording.tape = &tape;
    const Tensor loss = model.loss(recording, ctx.from_host<int32_t>(tokens, {kBatch, kTokens}),
                                   ctx.from_host<int32_t>(targets, {kBatch * kTokens}));
    tape.backward(recording, loss);
    StepControl control;
    control.lr = static_cast<float>(learning_rate(config, step, kSteps));
    optimizer->step(ctx, shards, make_control(ctx, control));

    last = loss.item<float>();
    if (step == 1) first = last;
    if (step == 1 || step % 10 == 0)
      std::printf("step %3lld  loss %.4f\n", static_cast<long long>(step), last);
  }
  if (last < 0.1f * first) return 0;
  std::fprintf(stderr, "the loss fell from %.4f to %.4f only\n", first, last);
  return 1;
}
