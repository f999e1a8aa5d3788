// The GPT as a whole: it learns, its units can be cut anywhere, recompute and the cache change nothing.
#include "models/gpt.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/nn/buckets.h"
#include "core/tape.h"
#include "models/presets.h"

namespace trireme {
namespace {

using ::testing::FloatNear;
using ::testing::HasSubstr;
using ::testing::Pointwise;

ModelConfig tiny(const std::string& recompute = "none", double dropout = 0.0, bool tied = true) {
  ModelConfig c;
  apply_preset("tiny", c);
  c.vocab = 40;
  c.true_vocab = 37;
  c.recompute = recompute;
  c.dropout = dropout;
  c.tied = tied;
  return resolve_model(c);
}

class GptTest : public ::testing::Test {
 protected:
  struct Result {
    float loss;
    std::vector<float> grads;
  };
  static std::vector<int32_t> tokens(int64_t n, int32_t shift) {
    std::vector<int32_t> t(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) t[i] = static_cast<int32_t>((i * i + 3 * i + shift) % 37);
    return t;
  }
  MicroBatch batch(int64_t samples, int64_t length) {
    return {ctx_.from_host<int32_t>(tokens(samples * length, 0), {samples, length}),
            ctx_.from_host<int32_t>(tokens(samples * length, 1), {samples, length}),
            1.0f / static_cast<float>(samples * length)};
  }
  /// Loss and all gradients of one step, by `backward`.
  Result step(const ModelConfig& config, const std::function<Tensor(Context&, Model&, const MicroBatch&)>& forward) {
    const auto model = make_model(config);
    auto buckets = allocate_parameters(ctx_, model->parameters(), 5);
    Tape tape;
    Context ctx = ctx_;
    ctx.tape = &tape;
    ctx.training = true;
    ctx.random = {5, ctx_.from_host<int64_t>(std::array<int64_t, 1>{1}, {1}), 0};
    const Tensor loss = forward(ctx, *model, batch(3, 20));
    tape.backward(ctx, loss);
    Result r{loss.item<float>(), {}};
    for (Parameter* p : model->parameters()) {
      EXPECT_TRUE(p->grad_written) << p->name;
      r.grads.insert(r.grads.end(), p->grad.span<float>().begin(), p->grad.span<float>().end());
    }
    return r;
  }
  static Tensor whole(Context& ctx, Model& model, const MicroBatch& b) { return model.loss(ctx, b); }

  Engine engine_{make_cpu_backend(1)};
  Context ctx_ = engine_.context();
};

TEST_F(GptTest, LossStartsNearUniform) {
  EXPECT_NEAR(step(tiny(), whole).loss, std::log(37.0f), 0.1f);
}

TEST_F(GptTest, RecomputeAndDropoutGiveTheSameGradients) {
  for (double dropout : {0.0, 0.3})
    for (bool tied : {true, false}) {
      const Result plain = step(tiny("none", dropout, tied), whole);
      for (const char* mode : {"selective", "full"}) {
        const Result replayed = step(tiny(mode, dropout, tied), whole);
        EXPECT_EQ(replayed.loss, plain.loss) << mode;
        EXPECT_EQ(replayed.grads, plain.grads) << mode;
      }
    }
}

TEST_F(GptTest, UnitsCanBeCutAnywhere) {
  const Result plain = step(tiny(), whole);
  const Result cut = step(tiny(), [](Context& ctx, Model& model, const MicroBatch& b) {
    Activation a;
    for (int64_t unit = 0; unit < model.num_units(); ++unit) a = model.run(ctx, unit, unit + 1, std::move(a), b);
    return a.loss;
  });
  EXPECT_EQ(cut.loss, plain.loss);
  EXPECT_EQ(cut.grads, plain.grads);
}

TEST_F(GptTest, GradientDescentLearnsTheSequence) {
  const auto model = make_model(tiny());
  auto buckets = allocate_parameters(ctx_, model->parameters(), 5);
  const MicroBatch data = batch(2, 32);
  float loss = 0.0f;
  for (int i = 0; i < 60; ++i) {
    Tape tape;
    Context ctx = ctx_;
    ctx.tape = &tape;
    for (Parameter* p : model->parameters()) p->grad_written = false;
    const Tensor root = model->loss(ctx, data);
    tape.backward(ctx, root);
    loss = root.item<float>();
    for (Bucket& b : buckets)
      for (int64_t e = 0; e < b.numel; ++e) b.data.data<float>()[e] -= 0.5f * b.grad.data<float>()[e];
  }
  EXPECT_LT(loss, 1.5f);
}

TEST_F(GptTest, CachedLogitsEqualThoseOfTheWholeText) {
  const auto model = make_model(tiny());
  auto buckets = allocate_parameters(ctx_, model->parameters(), 5);
  const std::vector<int32_t> text = tokens(12, 0);
  GenerationCache cache = model->make_cache(ctx_, 1);
  const auto feed = [&](GenerationCache& c, int64_t begin, int64_t end) {
    const std::span part = std::span<const int32_t>(text).subspan(begin, end - begin);
    const Tensor logits = model->next_logits(ctx_, ctx_.from_host<int32_t>(part, {1, end - begin}), c);
    return std::vector<float>(logits.span<float>().begin(), logits.span<float>().end());
  };
  feed(cache, 0, 5);
  for (int64_t t = 5; t < 12; ++t) {
    GenerationCache fresh = model->make_cache(ctx_, 1);
    EXPECT_THAT(feed(cache, t, t + 1), Pointwise(FloatNear(1e-5f), feed(fresh, 0, t + 1))) << "after " << t + 1;
  }
}

TEST_F(GptTest, PaddedVocabularyIsNeverTrained) {
  const auto model = make_model(tiny("none", 0.0, /*tied=*/false));
  auto buckets = allocate_parameters(ctx_, model->parameters(), 5);
  Tape tape;
  Context ctx = ctx_;
  ctx.tape = &tape;
  tape.backward(ctx, model->loss(ctx, batch(2, 8)));
  const auto head = model->parameter("head.weight").grad.span<float>();
  for (size_t i = 37 * 32; i < head.size(); ++i) EXPECT_EQ(head[i], 0.0f);
}

TEST(PresetTest, SizesAreGpt2s) {
  ModelConfig c;
  apply_preset("gpt2-124m", c);
  const auto model = make_model(resolve_model(c));
  EXPECT_EQ(model->num_parameters(), 124475904);  // 124439808 and 47 rows of padding
  EXPECT_EQ(model->parameters().front()->name, "wte.weight");
  EXPECT_EQ(model->parameter("h.11.mlp.down.weight").shape, (Shape{768, 3072}));
}

TEST(PresetTest, VocabulariesArePaddedTo64) {
  EXPECT_EQ(padded_vocab(50257), 50304);
  EXPECT_EQ(padded_vocab(1), 64);
  EXPECT_EQ(padded_vocab(64), 64);
  EXPECT_EQ(padded_vocab(65), 128);
  EXPECT_EQ(padded_vocab(0), 0) << "not known stays not known";
}

TEST(PresetTest, WrongSizesSayWhatFits) {
  const auto message = [](auto change) {
    ModelConfig c;
    c.vocab = 64;
    try {
      change(c);
      resolve_model(c);
    } catch (const ConfigError& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_THAT(message([](ModelConfig& c) { c.heads = 5; }), HasSubstr("set width to 380 or 385"));
  EXPECT_THAT(message([](ModelConfig& c) { c.kv_heads = 4; }), HasSubstr("divisor of 6"));
  EXPECT_THAT(message([](ModelConfig& c) { c.vocab = 0; }), HasSubstr("trireme prepare"));
  EXPECT_THAT(message([](ModelConfig& c) { apply_preset("gpt2-123m", c); }), HasSubstr("did you mean gpt2-124m"));
}

}  // namespace
}  // namespace trireme
