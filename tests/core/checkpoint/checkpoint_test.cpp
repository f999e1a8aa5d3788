// Checkpoints that go right: what is written is read, in any other division, and old ones go.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/core/checkpoint/checkpoint_fixture.h"

namespace trireme {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
namespace fs = std::filesystem;

TEST_F(CheckpointTest, RoundTripWithSections) {
  CheckpointWriter writer(target(100));
  writer.add("w", DType::f32, Slice::whole({6, 8}), bytes_of(counting(48)));
  const float scalar = 2.5f;
  writer.add("scale", DType::f32, Slice::whole({}), std::as_bytes(std::span(&scalar, 1)));
  writer.set_section("trainer", {{"tokens", 123456789012}, {"lr", 0.1}, {"name", "é"}});
  EXPECT_EQ(writer.commit(), root / "step-00000100");
  EXPECT_THAT(names_in_root(), ElementsAre("step-00000100"));

  CheckpointReader reader(root / "step-00000100");
  reader.verify();
  EXPECT_EQ(reader.step(), 100);
  EXPECT_THAT(reader.names(), ElementsAre("w", "scale"));
  EXPECT_EQ(reader.shape("w"), (Shape{6, 8}));
  std::vector<float> w(48), s(1);
  reader.read<float>("w", Slice::whole({6, 8}), w);
  reader.read<float>("scale", Slice::whole({}), s);
  EXPECT_EQ(w, counting(48));
  EXPECT_EQ(s[0], 2.5f);
  EXPECT_EQ(reader.section("trainer")["tokens"], 123456789012);
  EXPECT_EQ(reader.section("trainer")["lr"], 0.1);
  EXPECT_EQ(reader.section("trainer")["name"], "é");
}

TEST_F(CheckpointTest, UnknownNamesAndWrongKindsAreNamed) {
  CheckpointReader reader(write(target(1)));
  std::vector<float> out(48);
  std::vector<int32_t> whole_numbers(48);
  const auto error_of = [](auto&& f) -> std::string {
    try {
      f();
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(error_of([&] {
                reader.read<float>("ww", Slice::whole({6, 8}), out);
              }),
              HasSubstr("no tensor 'ww'"));
  EXPECT_THAT(error_of([&] {
                reader.read<float>("w", Slice::whole({8, 6}), out);
              }),
              HasSubstr("[6, 8], the model wants [8, 6]"));
  EXPECT_THAT(error_of([&] {
                reader.read<int32_t>("w", Slice::whole({6, 8}), whole_numbers);
              }),
              HasSubstr("cannot be read as i32"));
  EXPECT_THAT(error_of([&] { reader.section("trainer"); }), HasSubstr("no section 'trainer'"));
  EXPECT_THAT(error_of([&] { CheckpointReader(root / "other"); }), HasSubstr("manifest.json"));
}

/// Each part is a tensor-parallel rectangle of `w` [6, 8] cut in ZeRO ranges.
std::vector<Slice> parts(const std::vector<Slice>& rectangles, int ranges) {
  std::vector<Slice> slices;
  for (const Slice& r : rectangles)
    for (int i = 0; i < ranges; ++i)
      slices.push_back(r.range(r.numel() * i / ranges, r.numel() * (i + 1) / ranges));
  return slices;
}

std::vector<float> values_of(const Slice& slice) {  // by the slow road: each element of w is its global index
  std::vector<float> values;
  for (int64_t e = slice.flat_begin; e < slice.flat_end; ++e)
    values.push_back(static_cast<float>((slice.offset[0] + e / slice.size[1]) * slice.global[1] +
                                        slice.offset[1] + e % slice.size[1]));
  return values;
}

TEST_F(CheckpointTest, EveryDivisionReadsEveryOther) {
  const Shape global{6, 8};
  const Slice whole = Slice::whole(global);
  const std::vector<std::vector<Slice>> divisions{
      {whole},
      parts({whole}, 5),
      {Slice::rectangle(global, {0, 0}, {6, 3}), Slice::rectangle(global, {0, 3}, {6, 5})},  // columns
      {Slice::rectangle(global, {0, 0}, {1, 8}), Slice::rectangle(global, {1, 0}, {5, 8})},  // rows
      parts({Slice::rectangle(global, {0, 0}, {6, 4}), Slice::rectangle(global, {0, 4}, {6, 4})},
            4),  // 4 ZeRO x 2
      parts({Slice::rectangle(global, {0, 0}, {3, 8}), Slice::rectangle(global, {3, 0}, {3, 8})}, 4),
      {Slice::rectangle(global, {0, 0}, {6, 3}).range(0, 7),
       Slice::rectangle(global, {0, 0}, {6, 3}).range(7, 18), Slice::rectangle(global, {0, 3}, {4, 5}),
       Slice::rectangle(global, {4, 3}, {2, 5})},  // mixed
  };
  for (size_t w = 0; w < divisions.size(); ++w) {
    const auto errors =
        run_ranks(target(static_cast<int64_t>(w)), static_cast<int>(divisions[w].size()), [&](auto t) {
          const Slice slice = divisions[w][static_cast<size_t>(t.rank)];
          CheckpointWriter writer(std::move(t));
          writer.add("w", DType::f32, slice, bytes_of(values_of(slice)));
          writer.commit();
        });
    EXPECT_THAT(errors, testing::Each(""));
    CheckpointReader reader(root / checkpoint_name(static_cast<int64_t>(w)));
    EXPECT_EQ(reader.manifest().files.size(), divisions[w].size());
    for (const std::vector<Slice>& division : divisions)
      for (const Slice& slice : division) {
        std::vector<float> got(static_cast<size_t>(slice.numel()), -1.0f);
        reader.read<float>("w", slice, got);
        EXPECT_EQ(got, values_of(slice)) << w << ": " << to_string(slice);
      }
  }
}

TEST_F(CheckpointTest, AMissingPartIsNamed) {
  const Slice whole = Slice::whole({6, 8});
  CheckpointWriter writer(target(1));
  writer.add("w", DType::f32, whole.range(0, 20), bytes_of(counting(20)));
  writer.add("w", DType::f32, whole.range(21, 48), bytes_of(counting(27)));  // the same name twice in a file
  CheckpointReader reader(writer.commit());
  std::vector<float> out(48);
  EXPECT_NO_THROW(reader.read<float>("w", whole.range(0, 20), std::span(out).first(20)));
  try {
    reader.read<float>("w", whole, out);
    FAIL() << "element 20 is nowhere";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("no file holds element 20 of 'w'"));
  }
}

TEST_F(CheckpointTest, ElementsAreConvertedBetweenFloatTypes) {
  const std::vector<float> values{1.0f, -0.5f, 3.1415927f, 65504.0f, 0.0f};
  CheckpointWriter writer(target(1));
  writer.add("x", DType::f32, Slice::whole({5}), bytes_of(values));
  CheckpointReader reader(writer.commit());
  std::vector<bf16> b(5);
  std::vector<f16> h(5);
  std::vector<double> d(5);
  reader.read<bf16>("x", Slice::whole({5}), b);
  reader.read<f16>("x", Slice::whole({5}), h);
  reader.read<double>("x", Slice::whole({5}), d);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(b[i].bits, bf16(values[i]).bits);
    EXPECT_EQ(h[i].bits, f16(values[i]).bits);
    EXPECT_EQ(d[i], values[i]);
  }
  CheckpointWriter second(target(2));
  second.add("x", DType::bf16, Slice::whole({5}), std::as_bytes(std::span(b)));
  CheckpointReader narrow(second.commit());
  std::vector<float> f(5);
  narrow.read<float>("x", Slice::whole({5}), f);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(f[i], static_cast<float>(b[i]));
}

TEST_F(CheckpointTest, ManyTensorsFillSeveralFiles) {
  constexpr int kTensors = 3000;
  CheckpointWriter writer(target(1));
  for (int i = 0; i < kTensors; ++i)
    writer.add("layer." + std::to_string(i), DType::f32, Slice::whole({2}),
               bytes_of(counting(2, static_cast<float>(i))));
  CheckpointReader reader(writer.commit());
  EXPECT_GT(reader.manifest().files.size(), 1u);
  reader.verify();
  for (int i = 0; i < kTensors; i += 271) {
    std::vector<float> out(2);
    reader.read<float>("layer." + std::to_string(i), Slice::whole({2}), out);
    EXPECT_EQ(out, counting(2, static_cast<float>(i)));
  }
}

TEST_F(CheckpointTest, ReplacesAStepOfTheSameName) {
  for (const bool can_exchange : {true, false}) {
    CheckpointTarget t = target(7);
    t.can_exchange = can_exchange;
    EXPECT_EQ(first_of(write(t, 10.0f)), 10.0f);
    EXPECT_EQ(first_of(write(t, 20.0f)), 20.0f);
    EXPECT_THAT(names_in_root(), ElementsAre("step-00000007"));
  }
}

TEST_F(CheckpointTest, ANameOfItsOwn) {
  CheckpointTarget t = target(0);
  t.name = "imported";
  EXPECT_EQ(write(t), root / "imported");
  EXPECT_EQ(first_of(root / "imported"), 0.0f);
  EXPECT_TRUE(find_checkpoints(root).empty()) << "only step-* folders are looked for";
}

TEST_F(CheckpointTest, PruneKeepsTheNewestAndTheNewestValid) {
  for (int step = 1; step <= 5; ++step) write(target(step));
  prune(root, 3);
  EXPECT_THAT(names_in_root(), ElementsAre("step-00000003", "step-00000004", "step-00000005"));
  flip_byte(root / "step-00000005" / "rank-00000-000.safetensors", (128 << 10) + 10);
  fs::remove(root / "step-00000004" / kManifestName);
  prune(root, 1);
  EXPECT_THAT(names_in_root(), ElementsAre("step-00000003", "step-00000005"));
  write(target(6));
  prune(root, 1, root / "step-00000006");
  EXPECT_THAT(names_in_root(), ElementsAre("step-00000006"));
}

TEST_F(CheckpointTest, PruneKeepsTheOneJustWrittenWhereLaterStepsLie) {
  for (int step : {10, 20, 30}) write(target(step));
  for (int step : {1, 2}) prune(root, 2, write(target(step)));
  EXPECT_THAT(names_in_root(), ElementsAre("step-00000002", "step-00000020", "step-00000030"));
  prune(root, 1, root / "step-00000020");
  EXPECT_THAT(names_in_root(), ElementsAre("step-00000020", "step-00000030"));
}

TEST_F(CheckpointTest, LaterStepsAreSetAsideAndNothingIsLost) {
  std::string said;
  const auto log = [&](const std::string& message) { said += message + "\n"; };
  set_aside_newer(root / "nowhere", 0, log);
  for (int step : {100, 200, 300}) write(target(step), static_cast<float>(step));
  set_aside_newer(root, 300, log);
  EXPECT_EQ(said, "");
  set_aside_newer(root, 100, log);
  EXPECT_THAT(names_in_root(),
              ElementsAre("abandoned-step-00000200", "abandoned-step-00000300", "step-00000100"));
  EXPECT_THAT(said, HasSubstr("abandoned-step-00000300\n"));
  EXPECT_EQ(choose_resume(root, log), root / "step-00000100");

  for (int again = 0; again < 2; ++again) {  // the course after that is left as well, twice
    write(target(200), 201.0f + static_cast<float>(again));
    set_aside_newer(root, 100, log);
  }
  EXPECT_THAT(find_checkpoints(root), ElementsAre(root / "step-00000100"));
  EXPECT_EQ(first_of(root / "abandoned-step-00000200"), 200.0f);
  EXPECT_EQ(first_of(root / "abandoned-step-00000200-2"), 201.0f);
  EXPECT_EQ(first_of(root / "abandoned-step-00000200-3"), 202.0f);
  prune(root, 1, root / "step-00000100");
  EXPECT_EQ(names_in_root().size(), 5u) << "what was set aside is the user's to remove";
  EXPECT_EQ(resolve_checkpoint(root / "abandoned-step-00000300", log), root / "abandoned-step-00000300");
}

TEST_F(CheckpointTest, AnInterruptedReplacementIsSetAsideOnce) {
  write(target(100), 1.0f);
  fs::rename(root / "step-00000100", root / ".old-step-00000100");
  write(target(200), 2.0f);  // also moves the older one back
  fs::rename(root / "step-00000200", root / ".old-step-00000200");
  fs::copy(root / "step-00000100", root / ".old-step-00000100", fs::copy_options::recursive);
  set_aside_newer(root, 0, [](const std::string&) {});
  EXPECT_THAT(names_in_root(), ElementsAre("abandoned-step-00000100", "abandoned-step-00000200"));
  EXPECT_EQ(first_of(root / "abandoned-step-00000200"), 2.0f);
}

TEST_F(CheckpointTest, FindsNewestFirstAndIgnoresOtherNames) {
  for (const char* name : {"step-00000002", "step-00000010", "step-100000000", "step-12", "step-0000000x",
                           "logs", ".tmp-step-00000003"})
    fs::create_directories(root / name);
  EXPECT_THAT(find_checkpoints(root),
              ElementsAre(root / "step-100000000", root / "step-00000010", root / "step-00000002"));
  EXPECT_TRUE(find_checkpoints(root / "nowhere").empty());
}

TEST_F(CheckpointTest, AUsersPathIsACheckpointOrAFolderOfThem) {
  const auto ignore = [](const std::string&) {};
  EXPECT_THROW(resolve_checkpoint(root, ignore), ConfigError);
  EXPECT_THROW(resolve_checkpoint(root / "nowhere", ignore), ConfigError);
  write(target(1));
  write(target(2));
  EXPECT_EQ(resolve_checkpoint(root, ignore), root / "step-00000002");
  EXPECT_EQ(resolve_checkpoint(root / "step-00000001", ignore), root / "step-00000001");
}

}  // namespace
}  // namespace trireme
