// What several ranks save of parameters that they divide or share, and what others read of it.
#include "launcher/train_state.h"

#include <gmock/gmock.h>

#include <bit>
#include <deque>

#include "optim/split_master.h"
#include "tests/core/checkpoint/checkpoint_fixture.h"

namespace trireme {
namespace {

/// One tensor rank's parameters: rows of `qkv` [10, 3], of which both ranks hold the last two; columns of
/// `proj` [4, 6]; and `norm` [5], which both hold whole. Elements of the global arrays count from 100, 200
/// and 300, and an optimizer's values are 1000 more.
struct Rank {
  explicit Rank(int rank) {
    const bool first = rank == 0;
    const int64_t row = first ? 0 : 4;
    add("qkv", {6, 3},
        {0, 10, {{.begin = row, .end = row + 4}, {.begin = 8, .end = 10, .primary = first, .shared = true}}});
    add("proj", {4, first ? 4 : 2}, Placement::split(1, 6, first ? 0 : 4, first ? 4 : 6));
    add("norm", {5}, {});
    parameters.back().placement.primary = first;
    std::vector<Parameter*> all;
    for (Parameter& p : parameters) all.push_back(&p);
    buckets = plan_buckets(all, 1 << 20);
    allocate_buckets(ctx, buckets);
    shards.push_back(make_shard(buckets[0], 0, 25));  // ends in the middle of proj or so
    shards.push_back(make_shard(buckets[0], 25, buckets[0].numel));
    for (size_t i = 0; i < shards.size(); ++i)
      state.flat.push_back(
          {i, "exp_avg", ctx.zeros(shards[i].data.shape(), DType::f32, MemoryClass::optimizer)});
  }
  void add(const std::string& name, Shape shape, const Placement& placement) {
    Parameter& p = parameters.emplace_back();
    p.name = name, p.shape = shape, p.placement = placement;
  }
  /// The values of this rank's part of parameter `p`, in the local order.
  static std::vector<float> values_of(const Parameter& p, float first) {
    std::vector<float> values;
    const Shape global = p.global_shape();
    const int64_t columns = global.rank() == 2 ? global[1] : 1;
    const auto take = [&](int64_t row, int64_t column) {
      values.push_back(first + static_cast<float>(row * columns + column));
    };
    if (p.placement.dim == 1) {
      for (int64_t r = 0; r < global[0]; ++r)
        for (int64_t c = p.placement.ranges[0].begin; c < p.placement.ranges[0].end; ++c) take(r, c);
      return values;
    }
    const std::vector<Placement::Range> ranges =
        p.placement.is_split() ? p.placement.ranges
                               : std::vector<Placement::Range>{{.begin = 0, .end = global[0]}};
    for (const Placement::Range& range : ranges)
      for (int64_t r = range.begin; r < range.end; ++r)
        for (int64_t c = 0; c < columns; ++c) take(r, c);
    return values;
  }
  /// visit(the element's place in shards, the value that belongs there) for weights and for optimizer values.
  template <class F>
  void for_values(const F& visit) {
    for (size_t i = 0; i < shards.size(); ++i)
      for (const Shard::Segment& s : shards[i].segments) {
        const std::vector<float> values = values_of(*s.parameter, first_of(*s.parameter));
        for (int64_t e = s.begin; e < s.end; ++e) {
          const float value = values[static_cast<size_t>(s.parameter_begin + e - s.begin)];
          visit(*s.parameter, shards[i].data.data<float>()[e], value);
          visit(*s.parameter, state.flat[i].values.data<float>()[e], 1000 + value);
        }
      }
  }
  static float first_of(const Parameter& p) {
    return p.name == "qkv" ? 100.0f : p.name == "proj" ? 200.0f : 300.0f;
  }
  void fill() {
    for_values([](const Parameter&, float& element, float value) { element = value; });
  }

  Engine engine{make_cpu_backend(1)};
  Context ctx = engine.context();
  std::deque<Parameter> parameters;
  std::vector<Bucket> buckets;
  std::vector<Shard> shards;
  OptimizerState state;
};

class TrainStateTest : public CheckpointTest {
 protected:
  /// A checkpoint of two tensor ranks, each with `copies` ranks that hold the same.
  std::filesystem::path save(int copies) {
    const auto errors = run_ranks(target(3), 2 * copies, [&](CheckpointTarget t) {
      Rank rank(t.rank % 2);
      rank.fill();
      if (t.rank % 2 == 1)  // values that only the primary rank may write
        for (Shard& shard : rank.shards)
          for (const Shard::Segment& s : shard.segments)
            if (s.parameter->name == "norm")
              std::fill_n(shard.data.data<float>() + s.begin, s.end - s.begin, -1.0f);
      const WriteShare share{t.rank / 2, copies, /*replicated=*/true, t.rank == 0};
      CheckpointWriter writer(t);
      save_state(writer, rank.ctx, rank.shards, rank.state, share);
      writer.commit();
    });
    EXPECT_THAT(errors, ::testing::Each(""));
    return find_checkpoints(root).front();
  }
};

TEST_F(TrainStateTest, RanksWriteEachElementOnceAndOneReadsTheWhole) {
  for (const int copies : {1, 3}) {
    SCOPED_TRACE(copies);
    CheckpointReader reader(save(copies));
    reader.verify();
    for (const auto& [name, shape, first] : {std::tuple<std::string, Shape, float>{"qkv", {10, 3}, 100.0f},
                                             {"proj", {4, 6}, 200.0f},
                                             {"norm", {5}, 300.0f}}) {
      std::vector<float> values(static_cast<size_t>(shape.numel()));
      reader.read<float>(name, Slice::whole(shape), values);
      EXPECT_EQ(values, counting(shape.numel(), first)) << name;
      reader.read<float>("optim.exp_avg." + name, Slice::whole(shape), values);
      EXPECT_EQ(values, counting(shape.numel(), 1000 + first)) << name;
    }
  }
}

TEST_F(TrainStateTest, EachRankReadsItsOwnPartsThoseOfOthersAmongThem) {
  CheckpointReader reader(save(1));
  for (const int r : {0, 1}) {
    Rank rank(r);
    std::vector<Parameter*> all;
    for (Parameter& p : rank.parameters) all.push_back(&p);
    load_weights(reader, rank.ctx, all);
    load_state(reader, rank.ctx, rank.shards, rank.state);
    rank.for_values(
        [](const Parameter& p, float found, float expected) { EXPECT_EQ(found, expected) << p.name; });
  }
}

// In the checkpoint masters are whole, so it serves runs of any precision.
TEST_F(TrainStateTest, MastersInHalvesAreWrittenAndReadWhole) {
  Engine engine(make_cpu_backend(1));
  Context ctx = engine.context();
  const auto make = [&](Parameter& p) {
    p.name = "w", p.shape = {5, 7};
    Parameter* all[] = {&p};
    std::vector<Bucket> buckets = plan_buckets(all, 1 << 20);
    allocate_buckets(ctx, buckets, DType::bf16);
    return buckets;
  };
  const auto attach = [&](const std::vector<Bucket>& buckets) {
    const std::vector<Shard> shards{make_shard(buckets[0], 0, 20), make_shard(buckets[0], 20, buckets[0].numel)};
    OptimizerState state;
    for (size_t i = 0; i < shards.size(); ++i)
      state.flat.push_back({i, "master", ctx.zeros(shards[i].data.shape(), DType::u16, MemoryClass::optimizer)});
    return std::pair(shards, state);
  };
  const auto master = [](int64_t i) { return 1.0f + 0.001f * static_cast<float>(i * i); };
  Parameter from, to;
  const std::vector<Bucket> written = make(from), read = make(to);
  auto [shards, state] = attach(written);
  for (size_t s = 0; s < shards.size(); ++s)
    for (const Shard::Segment& segment : shards[s].segments)
      for (int64_t e = segment.begin; e < segment.end; ++e) {
        const uint32_t bits = std::bit_cast<uint32_t>(master(segment.parameter_begin + e - segment.begin));
        ASSERT_EQ(settle_master(bits), bits) << "choose other numbers";
        uint16_t& data = shards[s].data.data<bf16>()[e].bits;
        data = round_master(bits);
        state.flat[s].values.data<uint16_t>()[e] = rest_of_master(bits, data);
      }
  CheckpointWriter writer(target(1));
  save_state(writer, ctx, shards, state, {0, 1, /*replicated=*/true, true});
  CheckpointReader reader(writer.commit());
  std::vector<float> values(35);
  reader.read<float>("w", Slice::whole({5, 7}), values);
  for (int64_t i = 0; i < 35; ++i) EXPECT_EQ(values[static_cast<size_t>(i)], master(i)) << i;

  auto [other_shards, other_state] = attach(read);
  load_state(reader, ctx, other_shards, other_state);
  for (size_t s = 0; s < shards.size(); ++s)
    for (int64_t e = 0; e < shards[s].segments.back().end; ++e) {
      EXPECT_EQ(other_shards[s].data.data<bf16>()[e].bits, shards[s].data.data<bf16>()[e].bits) << s << " " << e;
      EXPECT_EQ(other_state.flat[s].values.data<uint16_t>()[e], state.flat[s].values.data<uint16_t>()[e]) << s << " " << e;
    }
}

TEST_F(TrainStateTest, AMissingSlotOrAnotherShapeIsRefused) {
  CheckpointReader reader(save(1));
  Rank rank(0);
  rank.state.flat[0].slot = "momentum";
  try {
    load_state(reader, rank.ctx, rank.shards, rank.state);
    FAIL() << "accepted";
  } catch (const ConfigError& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("holds no optim.momentum."));
  }
  rank.parameters[0].placement.global = 12;
  Parameter* qkv = &rank.parameters[0];
  try {
    load_weights(reader, rank.ctx, std::span(&qkv, 1));
    FAIL() << "accepted";
  } catch (const ConfigError& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("qkv has shape [10, 3] there and [12, 3] in this model"));
  }
}

}  // namespace
}  // namespace trireme
