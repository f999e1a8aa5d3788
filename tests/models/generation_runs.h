// Generation on layouts of ranks that are threads, for the tests of hosts and of GPUs: the logits after each token are to be
// those of one rank, whatever the prompt's length.
#pragma once

#include <gmock/gmock.h>

#include <functional>
#include <vector>

#include "comm/local/local_world.h"
#include "core/nn/buckets.h"
#include "models/parallel_model.h"
#include "models/presets.h"

namespace trireme {

struct GenerationCase {
  const char* name;
  ParallelConfig parallel;
  int ranks;
  DType dtype = DType::f32;
  friend void PrintTo(const GenerationCase& c, std::ostream* out) { *out << c.name; }
};

/// Texts of up to kContext tokens, on backends that `make_backend` gives a rank.
class GenerationRuns {
 public:
  static constexpr int64_t kContext = 24, kTexts = 2;
  using MakeBackend = std::function<std::unique_ptr<Backend>(int rank)>;
  using Logits = std::vector<float>;

  explicit GenerationRuns(MakeBackend make_backend) : make_backend_(std::move(make_backend)) {}

  static ModelConfig config() {
    ModelConfig c;
    apply_preset("tiny", c);
    c.heads = 4, c.kv_heads = 2, c.context = kContext, c.vocab = 40, c.true_vocab = 37;
    return resolve_model(c);
  }

  /// Tokens [begin, end) of each of the texts, one text after the other.
  static std::vector<int32_t> tokens(int64_t begin, int64_t end) {
    std::vector<int32_t> all;
    for (int64_t text = 0; text < kTexts; ++text)
      for (int64_t t = begin; t < end; ++t) all.push_back(static_cast<int32_t>((t * t + 5 * t + 11 * text) % 37));
    return all;
  }

  /// `body(ctx, model)` on each rank of the layout, with the weights that one rank would have.
  void with_model(const GenerationCase& c, const std::function<void(Context&, ParallelModel&)>& body) const {
    LocalWorld(c.ranks).run([&](Group& world) {
      ASSERT_EQ(world.size(), c.ranks);
      Engine engine(make_backend_(world.rank()));
      Mesh mesh(c.parallel, world, engine.backend());
      ParallelPlan plan = plan_parallel(config(), c.parallel, {.micro = 1, .sequence = kContext, .micro_batches = 1}, c.ranks);
      ParallelModel model(config(), c.parallel, std::move(plan), mesh, ModelUse::inference);
      Context ctx = engine.context();
      const auto buckets = allocate_parameters(ctx, model.parameters(), 7, c.dtype);
      body(ctx, model);
      ctx.stream->synchronize();
    });
  }

  static Logits next_logits(Context& ctx, ParallelModel& model, int64_t begin, int64_t end, GenerationCache& cache) {
    const Tensor found = model.next_logits(ctx, tokens(begin, end), kTexts, cache);
    Logits values(static_cast<size_t>(found.numel()));
    ctx.backend->copy(values.data(), found.raw(), found.bytes(), *ctx.stream);
    ctx.stream->synchronize();
    return values;
  }

  /// After `prompt` tokens, and after each one that follows; without what was kept of earlier ones.
  std::vector<Logits> on_one_rank(DType dtype, int64_t prompt) const {
    std::vector<Logits> logits;
    with_model({"one", {}, 1, dtype}, [&](Context& ctx, ParallelModel& model) {
      for (int64_t end = prompt; end <= kContext; ++end) {
        GenerationCache cache = model.model().make_cache(ctx, kTexts);
        logits.push_back(next_logits(ctx, model, 0, end, cache));
      }
    });
    return logits;
  }

  void expect_logits_of_one_rank(const GenerationCase& c, int64_t prompt, float tolerance) const {
    const auto expected = on_one_rank(c.dtype, prompt);
    with_model(c, [&](Context& ctx, ParallelModel& model) {
      GenerationCache cache = model.model().make_cache(ctx, kTexts);
      int64_t begin = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        const int64_t end = prompt + static_cast<int64_t>(i);
        const Logits found = next_logits(ctx, model, begin, end, cache);
        EXPECT_EQ(cache.length, end);
        EXPECT_THAT(found, testing::Pointwise(testing::FloatNear(tolerance), expected[i]))
            << "after " << end << " tokens, the first " << prompt << " at once";
        begin = end;
      }
    });
  }

 private:
  MakeBackend make_backend_;
};

}  // namespace trireme
