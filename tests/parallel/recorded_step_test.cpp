// A step that is recorded in pieces, its collectives between them, does in each replay what it would do
// itself.
#include <gmock/gmock.h>

#include "comm/device_group.h"
#include "comm/local/local_world.h"
#include "core/nn/module.h"
#include "core/ops/elementwise.h"
#include "core/recorder.h"
#include "parallel/all_reduce_reducer.h"
#include "parallel/pipeline_executor.h"
#include "tests/parallel/queued_kernels.h"

namespace trireme {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

struct Weights : Module {
  Parameter& a = add_parameter("a", {40}, Init::ones());
  Parameter& b = add_parameter("b", {50}, Init::ones());
};

std::vector<float> read(const Context& ctx, const Tensor& t) {
  std::vector<float> values(static_cast<size_t>(t.numel()));
  ctx.backend->copy(values.data(), t.raw(), t.bytes(), *ctx.stream);
  ctx.stream->synchronize();
  return values;
}

TEST(RecordedStepTest, SumsGradientsOfEachReplay) {
  for (const DType reduce_type : {DType::f32, DType::bf16}) {
    LocalWorld(2).run([reduce_type](Group& world) {
      ASSERT_EQ(world.size(), 2);
      Engine engine(make_fake_device<AddKernel, CastKernel, FillKernel>(world.rank()));
      Context ctx = engine.context();
      Weights weights;
      auto buckets = plan_buckets(weights.parameters(), 64 * sizeof(float));  // b; a
      allocate_buckets(ctx, buckets);
      ASSERT_EQ(buckets.size(), 2u);
      const auto group =
          make_device_group(world, engine.backend(), "gradients", {.nccl_ctas = 0, .staged = true});
      AllReduceReducer reducer(ctx, buckets, {.batch = group.get()}, /*overlap=*/true, reduce_type);
      const Tensor input = ctx.zeros({50}), total = ctx.zeros({50});
      const auto step = [&] {
        reducer.begin_step();
        for (Parameter* p : {&weights.b, &weights.a}) {
          Tensor grad = p->grad;
          ctx.kernel<AddKernel>()(ctx, input.flat_view(0, p->shape), input.flat_view(0, p->shape), grad);
          p->grad_written = true;
          reducer.grad_ready(*p);
        }
        reducer.finish();
        Tensor sum = total;
        ctx.kernel<AddKernel>()(ctx, total, weights.b.grad, sum);
      };
      const auto recording = ctx.recorder->record(step);
      ASSERT_NE(recording, nullptr);
      EXPECT_THAT(read(ctx, total), Each(0.0f)) << "recorded, not run";
      float expected = 0.0f;
      for (int replay = 1; replay <= 3; ++replay) {
        const std::vector<float> values(50, static_cast<float>(replay * (world.rank() + 1)));
        ctx.backend->copy(input.raw(), values.data(), input.bytes(), *ctx.stream);
        recording->replay(*ctx.stream);
        const float sum = static_cast<float>(2 * replay * 3);  // of both ranks, twice the input
        expected += sum;
        EXPECT_THAT(read(ctx, weights.a.grad), Each(sum));
        EXPECT_THAT(read(ctx, total), Each(expected));
      }
    });
  }
}

TEST(RecordedStepTest, OnlyItsStreamWaitsForWhatIsOnlyRecorded) {
  LocalWorld(2).run([](Group& world) {
    Engine engine(make_fake_device<AddKernel>(world.rank()));
    Context ctx = engine.context();
    const auto group = make_device_group(world, engine.backend(), "group", {.nccl_ctas = 0, .staged = true});
    const std::vector<float> values{1.0f + static_cast<float>(world.rank())};
    const Tensor t = ctx.from_host<float>(values, {1});
    Tensor twice = ctx.zeros({1});
    const std::unique_ptr<Stream> other = engine.backend().make_stream();
    const auto recording = ctx.recorder->record([&] {
      const Work sum = group->all_reduce(t, ReduceOp::sum, "sum", ctx.stream);
      EXPECT_FALSE(sum.done());
      EXPECT_THROW(sum.wait(), IoError) << "by which the recording fails, and the step is launched";
      EXPECT_THROW(sum.wait(*other), InternalError);
      sum.wait_until_issued();
      sum.wait(*ctx.stream);
      sum.wait(*ctx.stream);  // once more is no harm
      EXPECT_THROW(sum.wait(*other), InternalError);
      EXPECT_FALSE(sum.done()) << "a replay of it may be under way";
      ctx.kernel<AddKernel>()(ctx, t, t, twice);
    });
    EXPECT_EQ(ctx.stream->recorder(), nullptr);
    EXPECT_THAT(read(ctx, t), ElementsAre(values[0])) << "recorded, not run";
    recording->replay(*ctx.stream);
    EXPECT_THAT(read(ctx, twice), ElementsAre(6.0f));
    recording->replay(*ctx.stream);
    EXPECT_THAT(read(ctx, twice), ElementsAre(12.0f));
  });
}

/// The most memory that recording a pipeline's step takes, of all ranks.
size_t peak_of_pipeline(const char* name, int64_t micro_batches) {
  std::atomic<size_t> peak = 0;
  LocalWorld(2).run([&](Group& world) {
    Engine engine(make_fake_device<ScaleKernel, FillKernel>(world.rank()));
    Context ctx = engine.context();
    const auto group = make_device_group(world, engine.backend(), "pipeline", {.nccl_ctas = 0, .staged = true});
    PipelineExecutor executor(make_schedule(name, 2, chunks_of_schedule(name), micro_batches), *group);
    const StageForward twice = [](Context& c, int64_t, int64_t, const Tensor& received) {
      return scale(c, received.defined() ? received : c.tape->watch(c.zeros({1})), 2.0f);
    };
    const auto recording = ctx.recorder->record([&] { executor.run(ctx, {1}, DType::f32, twice, nullptr); });
    ASSERT_NE(recording, nullptr);
    for (size_t mine = engine.allocator().stats().peak_total_bytes, most = peak; mine > most && !peak.compare_exchange_weak(most, mine);) {
    }
    recording->replay(*ctx.stream);
    ctx.stream->synchronize();
  });
  return peak;
}

TEST(RecordedStepTest, OfAPipelineKeepsNoMessagesToItsEnd) {
  for (const char* name : {"1f1b", "zb-h1", "zb-v"}) EXPECT_EQ(peak_of_pipeline(name, 64), peak_of_pipeline(name, 8)) << name;
}

TEST(RecordedStepTest, KeepsTheOrderOfWorkAndActions) {
  Engine engine(make_fake_device<FillKernel>(0));
  Context ctx = engine.context();
  std::vector<std::string> events;
  Tensor t = ctx.zeros({1});
  const auto note = [&](std::string event) {
    ctx.recorder->on_host(
        [&, event] { events.push_back(event + std::to_string(static_cast<int>(read(ctx, t)[0]))); });
  };
  note("now ");
  EXPECT_THAT(events, ElementsAre("now 0")) << "not recording";
  const auto recording = ctx.recorder->record([&] {
    ctx.kernel<FillKernel>()(ctx, 1.0f, t);
    note("a");
    note("b");  // nothing is queued between these two
    ctx.kernel<FillKernel>()(ctx, 2.0f, t);
    note("c");
  });
  EXPECT_EQ(events.size(), 1u);
  recording->replay(*ctx.stream);
  EXPECT_THAT(events, ElementsAre("now 0", "a1", "b1", "c2"));
  EXPECT_THROW(ctx.recorder->record([] { throw ConfigError("no"); }), ConfigError);
  note("after ");
  EXPECT_EQ(events.back(), "after 2") << "no longer recording";
}

}  // namespace
}  // namespace trireme
