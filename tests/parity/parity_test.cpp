// 20 steps of a small GPT-2 against PyTorch in double precision (golden.json, made by make_golden.py): the
// same weights, tokens and hyper-parameters must give the same losses, gradient norms and learning rates.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/nn/buckets.h"
#include "core/ops/elementwise.h"
#include "core/tape.h"
#include "models/model.h"
#include "models/presets.h"
#include "optim/clip.h"
#include "optim/schedule.h"

namespace trireme {
namespace {

const nlohmann::json& golden() {
  static const nlohmann::json json = nlohmann::json::parse(std::ifstream(TRIREME_GOLDEN));
  return json;
}

ModelConfig golden_model() {
  const auto& m = golden().at("model");
  ModelConfig config;
  config.layers = m.at("layers");
  config.heads = m.at("heads");
  config.width = m.at("width");
  config.context = m.at("context");
  config.vocab = m.at("vocab");
  return config;
}

OptimConfig golden_optim() {
  const auto& o = golden().at("optim");
  OptimConfig config;
  config.lr = o.at("lr");
  config.betas = o.at("betas");
  config.eps = o.at("eps");
  config.weight_decay = o.at("weight_decay");
  config.clip = o.at("clip");
  config.schedule = {.kind = "cosine", .warmup = o.at("warmup"), .final = o.at("final")};
  return config;
}

// The stream of make_golden.py.
int32_t token(int64_t i, int64_t vocab) {
  return static_cast<int32_t>((5 * i + i / 7 * (i / 7) % 11) % vocab);
}

struct StepResult {
  double loss, grad_norm, lr;
};

/// A model with what trains it, on one rank.
class Training {
 public:
  Training(const ModelConfig& config, int num_threads)
      : engine_(make_cpu_backend(num_threads)),
        ctx_(engine_.context()),
        model_(make_model(resolve_model(config))),
        parameters_(model_->parameters()),
        optim_config_(golden_optim()),
        guard_(ctx_, optim_config_) {
    register_optimizer_kernels(engine_.backend());
    ctx_.training = true;
    buckets_ = allocate_parameters(ctx_, parameters_, golden().at("seed"));
    for (const Bucket& bucket : buckets_) shards_.push_back(make_shard(bucket, 0, bucket.numel));
    optimizer_ = make_optimizer(optim_config_);
    optimizer_->attach(ctx_, shards_);
  }

  StepResult step(int64_t number, int64_t total_steps, int64_t samples, int64_t micro) {
    for (Parameter* p : parameters_) p->grad_written = false;
    Tensor stats = ctx_.zeros({UpdateGuard::kStats});
    float loss = 0.0f;
    for (int64_t first = 0; first < samples; first += micro)
      loss += run_micro_batch((number - 1) * samples + first, micro, samples);
    Tensor norm_stats = stats.slice(UpdateGuard::sum_squares, UpdateGuard::loss);
    for (const Bucket& bucket : buckets_) ctx_.kernel<SumSquaresKernel>()(ctx_, bucket.grad, norm_stats);
    stats.data<float>()[UpdateGuard::loss] = loss;
    guard_.set_learning_rate(ctx_, learning_rate(optim_config_, number, total_steps));
    const Tensor& control = guard_.decide(ctx_, stats);
    optimizer_->step(ctx_, shards_, control);
    const StepControl result = read_control(ctx_, control);
    return {loss, result.grad_norm, result.lr};
  }
  const std::vector<Parameter*>& parameters() const { return parameters_; }

 private:
  float run_micro_batch(int64_t first_sample, int64_t micro, int64_t samples) {
    const int64_t T = model_->config().context;
    std::vector<int32_t> tokens, targets;
    for (int64_t i = first_sample * T; i < (first_sample + micro) * T; ++i) {
      tokens.push_back(token(i, model_->config().vocab));
      targets.push_back(token(i + 1, model_->config().vocab));
    }
    const MicroBatch batch{ctx_.from_host<int32_t>(tokens, {micro, T}),
                           ctx_.from_host<int32_t>(targets, {micro, T}),
                           1.0f / static_cast<float>(samples * T)};
    Tape tape;
    Context ctx = ctx_;
    ctx.tape = &tape;
    const Tensor loss = model_->loss(ctx, batch);
    tape.backward(ctx, loss);
    return loss.item<float>();
  }

  Engine engine_;
  Context ctx_;
  std::unique_ptr<Model> model_;
  std::vector<Parameter*> parameters_;
  OptimConfig optim_config_;
  UpdateGuard guard_;
  std::vector<Bucket> buckets_;
  std::vector<Shard> shards_;
  std::unique_ptr<Optimizer> optimizer_;
};

TEST(Parity, WeightsStartAlike) {
  const Training training(golden_model(), 1);
  const auto& initial = golden().at("initial");
  ASSERT_EQ(training.parameters().size(), initial.size());
  for (const Parameter* p : training.parameters()) {
    ASSERT_TRUE(initial.contains(p->name)) << p->name;
    const auto& want = initial.at(p->name);
    const std::span<const float> values = p->data.span<const float>();
    ASSERT_EQ(values.size(), want.at("numel").get<size_t>()) << p->name;
    double sum = 0.0, squares = 0.0;
    for (const float v : values) sum += v, squares += double{v} * v;
    // The sums let a last bit of the logarithm or cosine of one library differ from another's, and no more.
    EXPECT_FLOAT_EQ(values.front(), want.at("first").get<float>()) << p->name;
    EXPECT_FLOAT_EQ(values.back(), want.at("last").get<float>()) << p->name;
    EXPECT_NEAR(sum, want.at("sum").get<double>(), 1e-8) << p->name;
    EXPECT_NEAR(squares, want.at("sum_squares").get<double>(), 1e-8) << p->name;
  }
}

struct Case {
  const char* title;
  int64_t micro;  // samples of a micro-batch; 0: all at once
  std::string recompute;
  int num_threads;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.title;
}

class Parity : public ::testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Layouts, Parity,
                         ::testing::Values(Case{"whole_batch", 0, "none", 1},
                                           Case{"micro_batches", 2, "none", 1},
                                           Case{"recompute", 0, "full", 1},
                                           Case{"two_threads", 3, "selective", 2}),
                         [](const auto& info) { return info.param.title; });

TEST_P(Parity, TwentyStepsAsPyTorch) {
  ModelConfig config = golden_model();
  config.recompute = GetParam().recompute;
  Training training(config, GetParam().num_threads);
  const auto& steps = golden().at("steps");
  const int64_t samples = golden().at("batch");
  ASSERT_EQ(steps.size(), 20u);
  for (size_t i = 0; i < steps.size(); ++i) {
    const auto number = static_cast<int64_t>(i) + 1;
    const StepResult got = training.step(number, 20, samples, GetParam().micro ? GetParam().micro : samples);
    const double loss = steps[i].at("loss"), norm = steps[i].at("grad_norm"), lr = steps[i].at("lr");
    const double tolerance = number == 1 ? 1e-6 : 1e-5;  // ten times what was seen
    EXPECT_NEAR(got.loss / loss, 1.0, tolerance) << "step " << number;
    EXPECT_NEAR(got.grad_norm / norm, 1.0, number == 1 ? 1e-5 : 1e-3) << "step " << number;
    EXPECT_NEAR(got.lr / lr, 1.0, 1e-6) << "step " << number;
  }
}

}  // namespace
}  // namespace trireme
