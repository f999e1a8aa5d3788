// Tensors' views, the caching allocator's counts, and the layout of flat buckets.
#include <gmock/gmock.h>

#include <cstring>
#include <new>

#include "core/nn/buckets.h"
#include "core/nn/module.h"
#include "core/ops/linear.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

TEST(TensorTest, ViewsShareStorage) {
  Engine engine(make_cpu_backend(1));
  Context ctx = engine.context();
  const std::vector<float> values{0, 1, 2, 3, 4, 5};
  Tensor t = ctx.from_host<float>(values, {3, 2});
  EXPECT_TRUE(t.unique());
  const Tensor row = t.slice(1, 3);
  EXPECT_FALSE(t.unique());
  EXPECT_EQ(row.shape(), (Shape{2, 2}));
  EXPECT_EQ(row.data<float>()[0], 2.0f);
  EXPECT_EQ(t.reshape({6}).data<float>()[5], 5.0f);
  EXPECT_EQ(t.flat_view(3, {1, 2}).data<float>()[1], 4.0f);
  EXPECT_THROW(t.reshape({5}), InternalError);
  EXPECT_THROW(t.slice(2, 4), InternalError);
  EXPECT_THROW(t.data<int32_t>(), InternalError);
}

TEST(AllocatorTest, ReusesBlocksAndCountsByClass) {
  Engine engine(make_cpu_backend(1));
  Context ctx = engine.context();
  { const Tensor first = ctx.empty({1000}); }
  const size_t asked = engine.allocator().stats().device_allocations;
  for (int i = 0; i < 10; ++i) const Tensor again = ctx.empty({1000});
  EXPECT_EQ(engine.allocator().stats().device_allocations, asked);

  const Tensor weights = ctx.empty({256}, DType::bf16, MemoryClass::parameters);
  const MemoryStats stats = engine.allocator().stats();
  EXPECT_EQ(stats.current(MemoryClass::parameters), 512u);
  EXPECT_EQ(stats.current(MemoryClass::activations), 0u);
  EXPECT_EQ(stats.peak(MemoryClass::activations), 4000u);
  EXPECT_THAT(to_string(stats), HasSubstr("activations"));
}

TEST(AllocatorTest, OutOfMemorySaysWhatHoldsIt) {
  Engine engine(make_cpu_backend(1));
  Context ctx = engine.context();
  try {
    ctx.empty({int64_t{1} << 52});
    FAIL() << "no error";
  } catch (const IoError& e) {
    EXPECT_THAT(e.what(), HasSubstr("batch.micro"));
  }
}

/// Host memory of which there are only `capacity_bytes`.
struct SmallBackend : Backend {
  explicit SmallBackend(size_t capacity) : capacity_bytes(capacity) {}
  Device device() const override { return {}; }
  void* allocate(size_t bytes) override {
    ++asked;
    if (used_bytes + bytes > capacity_bytes) return nullptr;
    used_bytes += bytes;
    return ::operator new(bytes, std::align_val_t(64));
  }
  void deallocate(void* data, size_t bytes) override {
    used_bytes -= bytes;
    ::operator delete(data, std::align_val_t(64));
  }
  void copy(void* to, const void* from, size_t bytes, Stream&) override { std::memcpy(to, from, bytes); }
  void fill_zero(void* data, size_t bytes, Stream&) override { std::memset(data, 0, bytes); }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<Stream>(); }
  std::unique_ptr<Event> make_event() override { return std::make_unique<Event>(); }
  std::unique_ptr<Event> make_timed_event() override { return std::make_unique<Event>(); }
  size_t memory_bytes() const override { return capacity_bytes; }
  size_t free_bytes() const override { return capacity_bytes - used_bytes; }
  std::string model_name() const override { return "small"; }

  size_t capacity_bytes, used_bytes = 0;
  int asked = 0;
};

TEST(AllocatorTest, CachedBlocksGoBackBeforeMemoryIsSaidToBeOut) {
  SmallBackend backend(8192);
  const auto allocator = std::make_shared<Allocator>(backend);
  const auto held = allocator->allocate(1024, MemoryClass::parameters);
  allocator->allocate(4096, MemoryClass::activations);  // cached from here on, too small for what comes
  const auto large = allocator->allocate(6144, MemoryClass::activations);
  EXPECT_EQ(backend.used_bytes, 1024u + 6144u);
  EXPECT_EQ(allocator->stats().reserved_bytes, 1024u + 6144u);
  EXPECT_EQ(backend.asked, 4);

  EXPECT_THROW(allocator->allocate(2048, MemoryClass::activations), IoError);
  EXPECT_EQ(backend.asked, 5) << "nothing was cached, so asking again is of no use";
  allocator->allocate(1024, MemoryClass::workspace);
  EXPECT_THROW(allocator->allocate(2048, MemoryClass::activations), IoError);
  EXPECT_EQ(backend.used_bytes, 1024u + 6144u);
  EXPECT_EQ(allocator->stats().reserved_bytes, 1024u + 6144u);
  EXPECT_EQ(allocator->stats().current(MemoryClass::activations), 6144u);
}

TEST(AllocatorTest, OutOfMemorySaysHowMuchThereIsAndWhoHasIt) {
  constexpr size_t kMiB = size_t{1} << 20;
  SmallBackend backend(1024 * kMiB);
  const auto allocator = std::make_shared<Allocator>(backend);
  const auto held = allocator->allocate(256 * kMiB, MemoryClass::optimizer);
  backend.used_bytes += 512 * kMiB;  // somebody else
  try {
    allocator->allocate(512 * kMiB, MemoryClass::activations);
    FAIL() << "no error";
  } catch (const IoError& e) {
    EXPECT_THAT(e.what(), HasSubstr("1.00 GiB are in all, 0.25 free, 0.25 held here (0.25 in use"));
    EXPECT_THAT(e.what(), HasSubstr("0.50 held by libraries and other processes"));
    EXPECT_THAT(e.what(), ::testing::ContainsRegex("optimizer +256.0"));
  }
  backend.used_bytes -= 512 * kMiB;
}

struct Model : Module {
  Parameter& a = add_parameter("a", {5, 3}, Init::normal(1.0f));
  Parameter& b = add_parameter("b", {7}, Init::ones());
  Parameter& c = add_parameter("c", {100}, Init::uniform(0.5f));
};

TEST(AllocatorTest, AnOperationThatRunsOutOfMemoryIsNamedWithItsShapes) {
  Engine engine(make_cpu_backend(1));
  Context ctx = engine.context();
  Parameter w;
  w.shape = {int64_t{1} << 50, 2};  // the result would have as many columns
  const Tensor x = ctx.zeros({3, 2});
  try {
    linear(ctx, x, w, nullptr);
    FAIL() << "no error";
  } catch (const IoError& e) {
    EXPECT_THAT(e.what(), HasSubstr("linear forward of f32[3, 2]: out of memory"));
  }
}

TEST(AllocatorTest, BlocksOfRecordedWorkStayAndTellWhenSomebodyHasThem) {
  SmallBackend backend(8192);
  const auto allocator = std::make_shared<Allocator>(backend);
  allocator->begin_recording();
  void* block = allocator->allocate(4096, MemoryClass::activations)->data();
  EXPECT_FALSE(allocator->begin_replay());
  allocator->end_recording();
  EXPECT_TRUE(allocator->begin_replay());
  allocator->end_replay();
  allocator->release_cached();
  {
    const auto borrowed = allocator->allocate(4096, MemoryClass::workspace);
    EXPECT_EQ(borrowed->data(), block);  // it was not given back to the device, and others may use it meanwhile
    EXPECT_FALSE(allocator->begin_replay());
  }
  EXPECT_TRUE(allocator->begin_replay());
  allocator->end_replay();
  EXPECT_THROW(allocator->begin_recording(), InternalError);  // one at a time
  allocator->forget_recording();
  EXPECT_FALSE(allocator->begin_replay());
  allocator->release_cached();
  EXPECT_EQ(backend.used_bytes, 0u);
}

TEST(AllocatorTest, RecordedWorkIsForgottenWhereItsBlocksAreTheLastMemory) {
  SmallBackend backend(8192);
  const auto allocator = std::make_shared<Allocator>(backend);
  allocator->begin_recording();
  allocator->allocate(4096, MemoryClass::activations);
  allocator->end_recording();
  allocator->allocate(2048, MemoryClass::workspace);
  {
    const auto fits = allocator->allocate(3072, MemoryClass::workspace);  // where the other cached block was
    EXPECT_TRUE(allocator->begin_replay());
  }
  EXPECT_THROW(allocator->allocate(6144, MemoryClass::workspace), IoError) << "a replay is being queued";
  allocator->end_replay();
  EXPECT_TRUE(allocator->begin_replay()) << "that failed, and changed nothing";
  allocator->end_replay();
  const auto larger = allocator->allocate(6144, MemoryClass::workspace);
  EXPECT_EQ(backend.used_bytes, 6144u);
  EXPECT_FALSE(allocator->begin_replay());
}

TEST(AllocatorTest, CachedBlocksStayWhileWorkIsRecorded) {
  SmallBackend backend(8192);
  const auto allocator = std::make_shared<Allocator>(backend);
  allocator->allocate(4096, MemoryClass::activations);  // what steps need that can't be recorded
  allocator->begin_recording();
  EXPECT_THROW(allocator->allocate(6144, MemoryClass::activations), IoError);
  allocator->end_recording();
  allocator->forget_recording();
  const int asked = backend.asked;
  allocator->allocate(4096, MemoryClass::activations);
  EXPECT_EQ(backend.asked, asked);
}

TEST(BucketTest, LastDeclaredFirstAlignedAndPadded) {
  Model model;
  const auto buckets = plan_buckets(model.parameters(), 128 * sizeof(float), 64);
  ASSERT_EQ(buckets.size(), 2u);
  EXPECT_EQ(buckets[0].entries[0].parameter, &model.c);
  EXPECT_EQ(buckets[0].entries[1].parameter, &model.b);
  EXPECT_EQ(buckets[0].entries[1].begin, 112);
  EXPECT_EQ(buckets[0].numel, 128);
  EXPECT_EQ(buckets[1].numel, 64);
}

// Three heads on two ranks: were the cut after what a rank holds, the smaller part would leave room for one more.
TEST(BucketTest, RanksWithPartsOfDifferentSizesCutAtTheSamePlaces) {
  struct Part : Module {
    explicit Part(int64_t begin, int64_t end) {
      for (const char* name : {"a", "b", "c"})
        add_parameter(name, {3, 64}, Init::zeros(), Placement::split(0, 3, begin, end));
      add_parameter("whole", {64}, Init::zeros());
    }
  };
  Part larger(0, 2), smaller(2, 3);
  const auto cut = [](Part& part, int64_t limit, int64_t split_ranks) {
    std::vector<std::vector<std::string>> names;
    for (const Bucket& bucket : plan_buckets(part.parameters(), static_cast<size_t>(limit) * sizeof(float), 1, split_ranks)) {
      names.emplace_back();
      for (const BucketEntry& entry : bucket.entries) names.back().push_back(entry.parameter->name);
    }
    return names;
  };
  bool several = false;
  for (int64_t limit = 32; limit <= 512; limit += 32) {
    EXPECT_EQ(cut(larger, limit, 2), cut(smaller, limit, 2)) << limit;
    several = several || (cut(larger, limit, 2).size() > 1 && cut(larger, limit, 2).size() < 4);
  }
  EXPECT_TRUE(several);
}

TEST(BucketTest, ParametersAreViewsAndShardsKnowTheirSegments) {
  Engine engine(make_cpu_backend(1));
  Context ctx = engine.context();
  Model model;
  const auto buckets = allocate_parameters(ctx, model.parameters(), 3);
  ASSERT_EQ(buckets.size(), 1u);
  EXPECT_EQ(model.b.data.data<float>()[6], 1.0f);
  EXPECT_EQ(model.b.data.data<float>(), buckets[0].data.data<float>() + 112);
  const Shard shard = make_shard(buckets[0], 90, 130);
  ASSERT_EQ(shard.segments.size(), 3u);
  EXPECT_EQ(shard.segments[0].parameter, &model.c);
  EXPECT_EQ(shard.segments[0].parameter_begin, 90);
  EXPECT_EQ(shard.segments[0].end, 10);
  EXPECT_EQ(shard.segments[1].begin, 22);
  EXPECT_EQ(shard.segments[1].end, 29);
  EXPECT_EQ(shard.segments[2].parameter, &model.a);
  EXPECT_EQ(shard.segments[2].begin, 38);
}

TEST(InitTest, SplitParametersStartAsPartsOfTheWhole) {
  Parameter whole{.name = "w", .shape = {6, 4}, .placement = {}, .init = Init::normal(1.0f), .data = {}, .grad = {}};
  std::vector<float> all(24);
  init_values(whole, 7, all);
  for (int dim : {0, 1}) {
    for (int64_t index : {0, 1}) {
      Parameter part = whole;
      part.shape[dim] /= 2;
      part.placement = Placement::split(dim, whole.shape[dim], index * part.shape[dim], (index + 1) * part.shape[dim]);
      EXPECT_EQ(part.global_shape(), whole.shape);
      std::vector<float> values(12);
      init_values(part, 7, values);
      for (int64_t r = 0; r < part.shape[0]; ++r)
        for (int64_t c = 0; c < part.shape[1]; ++c) {
          const int64_t row = dim == 0 ? r + 3 * index : r, column = dim == 1 ? c + 2 * index : c;
          EXPECT_EQ(values[r * part.shape[1] + c], all[row * 4 + column]);
        }
    }
  }
}

TEST(InitTest, SeveralRangesOfRowsFollowOneAnother) {
  Parameter whole{.name = "w", .shape = {9, 5}, .placement = {}, .init = Init::normal(1.0f), .data = {}, .grad = {}};
  std::vector<float> all(45);
  init_values(whole, 7, all);
  Parameter part = whole;
  part.placement = {0, 9, {{1, 3}, {4, 5}, {8, 9}}};
  part.shape[0] = part.placement.local();
  EXPECT_EQ(part.shape[0], 4);
  std::vector<float> values(20);
  init_values(part, 7, values);
  const std::array<int64_t, 4> rows{1, 2, 4, 8};
  for (int64_t r = 0; r < 4; ++r)
    for (int64_t c = 0; c < 5; ++c) EXPECT_EQ(values[r * 5 + c], all[rows[r] * 5 + c]);
}

TEST(PhiloxTest, KnownAnswers) {  // of the Random123 distribution, philox4x32-10
  EXPECT_EQ(philox(0, 0, 0), (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~0ull, ~0ull, ~0ull), (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822ull, 0x85a308d3243f6a88ull, 0x0370734413198a2eull),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(ModuleTest, UnknownParameterNamesTheNearest) {
  Model model;
  EXPECT_EQ(model.num_parameters(), 122);
  EXPECT_EQ(&model.parameter("b"), &model.b);
  EXPECT_THROW(model.parameter("bb"), ConfigError);
}

}  // namespace
}  // namespace trireme
