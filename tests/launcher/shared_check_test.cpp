// All ranks check a checkpoint together: what they find is what one alone finds, and each reads its part only.
#include "launcher/shared_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "comm/local/local_world.h"
#include "core/checkpoint/checkpoint.h"
#include "launcher/agree.h"
#include "tests/temporary_folder.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr int kRanks = 3;
constexpr int kTensors = 9;

class SharedCheckTest : public testing::Test {
 protected:
  /// Tensors of equal size in a file each rank, so that every part has some.
  fs::path write(int64_t step) const {
    CheckpointTarget target;
    target.root = folder_.path();
    target.step = step;
    CheckpointWriter writer(target);
    const std::vector<float> values(1000, 1.0f);
    for (int i = 0; i < kTensors; ++i)
      writer.add("t" + std::to_string(i), DType::f32, Slice::whole({1000}), std::as_bytes(std::span(values)));
    return writer.commit();
  }
  /// Changes a byte of the i-th tensor, which is 4000 bytes long; the last one ends the file.
  static void damage(const fs::path& checkpoint, int i) {
    const fs::path file = checkpoint / "rank-00000-000.safetensors";
    const auto offset = static_cast<std::streamoff>(fs::file_size(file)) - (kTensors - i) * 4000 + 7;
    std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(offset);
    f.put('!');
  }
  /// What rank 0 is told of each checkpoint.
  std::vector<std::string> check(const std::vector<fs::path>& checkpoints) const {
    std::vector<std::string> problems;
    LocalWorld(kRanks, {.timeout_ms = 20'000}).run([&](Group& world) {
      ASSERT_EQ(world.size(), kRanks);
      SharedCheck shared(world);
      if (world.rank() > 0) return shared.serve();
      for (const fs::path& checkpoint : checkpoints) problems.push_back(shared.problem_of(checkpoint));
      shared.end();
    });
    return problems;
  }

  TemporaryFolder folder_;
};

TEST_F(SharedCheckTest, FindsWhatOneRankFindsWhereverItIs) {
  std::vector<fs::path> checkpoints{write(100)};
  for (int i = 0; i < kTensors; ++i) {
    checkpoints.push_back(write(i));
    damage(checkpoints.back(), i);
  }
  const auto problems = check(checkpoints);
  ASSERT_EQ(problems.size(), kTensors + 1u);
  EXPECT_EQ(problems[0], "");
  for (int i = 0; i < kTensors; ++i) {
    EXPECT_THAT(problems[i + 1], HasSubstr("'t" + std::to_string(i) + "' does not fit its checksum"));
    EXPECT_EQ(problems[i + 1], problem_of_checkpoint(checkpoints[i + 1]));
  }
}

TEST_F(SharedCheckTest, DamageOfManifestsAndFilesIsFound) {
  const fs::path no_manifest = write(1), bad_manifest = write(2), truncated = write(3), no_file = write(4);
  fs::remove(no_manifest / kManifestName);
  std::ofstream(bad_manifest / kManifestName) << "{}";
  fs::resize_file(truncated / "rank-00000-000.safetensors", 5000);
  fs::remove(no_file / "rank-00000-000.safetensors");
  const auto problems = check({no_manifest, bad_manifest, truncated, no_file});
  EXPECT_THAT(problems, testing::ElementsAre(HasSubstr("has no manifest.json"), HasSubstr("'format' is missing"),
                                             HasSubstr("truncated"), HasSubstr("No such file")));
}

TEST_F(SharedCheckTest, EveryPartIsReadByOneReader) {
  const fs::path checkpoint = write(1);
  std::map<int, int> found;  // damaged tensor -> readers that see it
  for (int i = 0; i < kTensors; ++i) {
    damage(checkpoint, i);
    for (int part = 0; part < kRanks; ++part) try {
        CheckpointReader(checkpoint).verify(part, kRanks);
      } catch (const ConfigError&) {
        ++found[part];
      }
    fs::remove_all(checkpoint);
    write(1);
  }
  EXPECT_THAT(found, testing::ElementsAre(testing::Pair(0, 3), testing::Pair(1, 3), testing::Pair(2, 3)));
}

// A rank on another machine whose file system lacks the checkpoint must not make the others skip it.
TEST_F(SharedCheckTest, ARankThatSeesAnotherFileSystemIsAnError) {
  const fs::path checkpoint = write(1), other = write(2);
  std::string error;
  LocalWorld world_of_two(2, {.timeout_ms = 20'000});
  EXPECT_THROW(world_of_two.run([&](Group& world) {
    SharedCheck shared(world);
    if (world.rank() == 0) {
      try {
        shared.problem_of(checkpoint);
      } catch (const IoError& e) {
        error = e.what();
        throw;
      }
    }
    // What serve() does, on a machine where the folder holds something else.
    const std::string path = share_text("", 0, world, "the checkpoint to check");
    const std::string manifest = share_text("", 0, world, "the checkpoint to check");
    std::array<int32_t, 1> rank{1};
    world
        .all_reduce(Tensor(std::make_shared<Storage>(nullptr, rank.data(), sizeof rank), 0, {1}, DType::i32, Device{}),
                    ReduceOp::min, "checkpoint checked")
        .wait();
    share_text("it has no manifest there, or another one", 1, world, "what is wrong with the checkpoint");
    shared.serve();
  }),
               IoError);
  EXPECT_THAT(error, HasSubstr("rank 1 does not see the checkpoint " + checkpoint.string() + " as rank 0 does: it has no "
                                                                                             "manifest there"));
}

}  // namespace
}  // namespace trireme
