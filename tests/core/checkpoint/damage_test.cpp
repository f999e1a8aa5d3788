// Checkpoints and damage: flipped and missing bytes, crashes between any two steps of writing, full disks.
#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>

#include "core/checkpoint/safetensors.h"
#include "tests/core/checkpoint/checkpoint_fixture.h"

namespace trireme {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
namespace fs = std::filesystem;

const std::string kFile = "rank-00000-000.safetensors";

class DamageTest : public CheckpointTest {
 protected:
  std::optional<fs::path> choose() {
    log.clear();
    return choose_resume(root, [&](const std::string& message) { log += message + "\n"; });
  }
  std::string log;
};

TEST_F(DamageTest, AFlippedByteAnywhereIsFound) {
  write(target(1), 1.0f);
  write(target(2), 2.0f);
  const fs::path newest = root / "step-00000002";
  ASSERT_EQ(choose(), newest);
  ASSERT_EQ(log, "");
  uint64_t header_end = 0, data_end = 0;
  {
    const SafetensorsFile file(newest / kFile);
    header_end = file->header().size();
    data_end = fs::file_size(newest / kFile);
  }
  std::vector<uint64_t> offsets{0, 3, 7, 8, 20, 60, header_end - 1};
  for (uint64_t i = header_end; i < data_end; i += 13) offsets.push_back(i);
  offsets.push_back(data_end - 1);
  for (uint64_t offset : offsets) {
    flip_byte(newest / kFile, offset);
    EXPECT_EQ(choose(), root / "step-00000001") << "byte " << offset;
    EXPECT_THAT(log, HasSubstr("skipping the checkpoint " + newest.string()));
    EXPECT_THAT(log, HasSubstr(kFile));
    flip_byte(newest / kFile, offset);
  }
  EXPECT_EQ(choose(), newest);
}

TEST_F(DamageTest, AFlippedByteOfTheManifestIsFoundOrHarmless) {
  write(target(1), 1.0f);
  write(target(2), 2.0f);
  const fs::path manifest = root / "step-00000002" / kManifestName;
  uint64_t skipped = 0;
  const uint64_t size = fs::file_size(manifest);
  for (uint64_t offset = 0; offset < size; offset += 7) {
    flip_byte(manifest, offset);
    const auto chosen = choose();
    ASSERT_TRUE(chosen.has_value());
    skipped += *chosen == root / "step-00000001";
    EXPECT_EQ(first_of(*chosen), *chosen == root / "step-00000002" ? 2.0f : 1.0f) << offset;
    flip_byte(manifest, offset);
  }
  EXPECT_GT(skipped, size / 7 * 9 / 10) << "only spaces may go unnoticed";
}

TEST_F(DamageTest, TruncatedAndMissingFilesAreSkipped) {
  write(target(1), 1.0f);
  for (const char* name : {kFile.c_str(), kManifestName})
    for (const bool missing : {false, true}) {
      const fs::path newest = write(target(2), 2.0f);
      const fs::path file = newest / name;
      if (missing)
        fs::remove(file);
      else
        fs::resize_file(file, fs::file_size(file) - 1 - 2 * (file.extension() == ".json"));
      EXPECT_EQ(choose(), root / "step-00000001") << name;
      EXPECT_THAT(log, HasSubstr(name));
    }
  fs::remove_all(root / "step-00000001");
  EXPECT_EQ(choose(), std::nullopt);
}

TEST_F(DamageTest, ReadingADamagedSliceThrowsAndOthersDoNot) {
  const fs::path checkpoint = write(target(1));
  flip_byte(checkpoint / kFile, fs::file_size(checkpoint / kFile) - 1);  // the last element of b
  CheckpointReader reader(checkpoint);
  std::vector<float> w(48), b(5);
  EXPECT_NO_THROW(reader.read<float>("w", Slice::whole({6, 8}), w));
  EXPECT_THROW(reader.read<float>("b", Slice::whole({5}), b), ConfigError);
  EXPECT_THROW(reader.read<float>("b", Slice::whole({5}).range(0, 1), std::span(b).first(1)), ConfigError);
  EXPECT_THROW(reader.verify(), ConfigError);
}

/// Ends the process at `stage` of writing step 2, as kill -9 would. Returns false when that stage never came.
bool crash_at(CheckpointTarget t, const std::string& stage,
              const std::function<void(CheckpointTarget)>& write) {
  const pid_t child = ::fork();
  if (child == 0) {
    t.on_stage = [&](std::string_view now) {
      if (now == stage) ::_exit(42);
    };
    try {
      write(t);
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) != 1);
  return WEXITSTATUS(status) == 42;
}

TEST_F(DamageTest, ACrashAtAnyStageLeavesAWholeCheckpoint) {
  for (const char* stage : {"write", "part", "merge", "publish", "published"}) {
    fs::remove_all(root);
    write(target(1), 1.0f);
    ASSERT_TRUE(crash_at(target(2), stage, [&](auto t) { write(t, 2.0f); })) << stage;
    const bool done = std::string(stage) == "published";
    const auto chosen = choose();
    ASSERT_TRUE(chosen) << stage;
    EXPECT_EQ(first_of(*chosen), done ? 2.0f : 1.0f) << stage;
    EXPECT_EQ(log.find("its writing did not end") == std::string::npos, done) << stage;
    write(target(3), 3.0f);  // the next writer cleans up
    EXPECT_EQ(names_in_root().size(), done ? 3u : 2u) << stage;
  }
}

TEST_F(DamageTest, ACrashWhileReplacingLeavesTheOldOrTheNewOne) {
  const std::vector<std::pair<bool, std::vector<const char*>>> ways{
      {true, {"publish", "exchanged", "published"}},
      {false, {"publish", "moved aside", "moved in", "published"}}};
  for (const auto& [can_exchange, stages] : ways)
    for (const char* stage : stages) {
      fs::remove_all(root);
      CheckpointTarget t = target(2);
      t.can_exchange = can_exchange;
      write(t, 1.0f);
      ASSERT_TRUE(crash_at(t, stage, [&](auto crashing) { write(crashing, 2.0f); })) << stage;
      const bool old = std::string(stage) == "publish" || std::string(stage) == "moved aside";
      const auto chosen = choose();
      ASSERT_TRUE(chosen) << stage;
      EXPECT_EQ(first_of(*chosen), old ? 1.0f : 2.0f) << stage;
      clean_leftovers(root);
      EXPECT_THAT(names_in_root(), ElementsAre("step-00000002")) << stage;
      EXPECT_EQ(first_of(root / "step-00000002"), old ? 1.0f : 2.0f) << stage;
    }
}

TEST_F(DamageTest, AWriterThatIsAbandonedLeavesNothing) {
  write(target(1));
  {
    CheckpointWriter writer(target(2));
    writer.add("b", DType::f32, Slice::whole({5}), bytes_of(counting(5)));
    EXPECT_THAT(names_in_root(), ElementsAre(".tmp-step-00000002", "step-00000001"));
  }
  EXPECT_THAT(names_in_root(), ElementsAre("step-00000001"));
}

/// Files of this process cannot grow beyond `bytes` while it lives: write() then fails as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit old_{};
  void (*handler_)(int);
};

TEST_F(DamageTest, AFullDiskIsAnIoErrorAndLosesNothing) {
  write(target(1), 1.0f);
  for (const rlim_t limit : {rlim_t{1000}, rlim_t{(128 << 10) + 100}}) {
    const FileSizeLimit full(limit);
    try {
      write(target(2), 2.0f);
      FAIL() << "the disk was full";
    } catch (const IoError& error) {
      EXPECT_THAT(error.what(), HasSubstr(kFile));
      EXPECT_THAT(error.what(), HasSubstr("free some space"));
    }
    EXPECT_THAT(names_in_root(), ElementsAre("step-00000001"));
  }
  EXPECT_EQ(choose(), root / "step-00000001");
  EXPECT_EQ(first_of(write(target(2), 2.0f)), 2.0f);
}

TEST_F(DamageTest, AFailureOfOneRankIsToldToAllAndLeavesTheOlderStep) {
  write(target(2), 1.0f);
  const auto errors = run_ranks(target(2), 4, [&](CheckpointTarget t) {
    const int rank = t.rank;
    if (rank == 2)
      t.on_stage = [](std::string_view stage) {
        if (stage == "part") throw IoError("rank 2's disk is full");
      };
    CheckpointWriter writer(std::move(t));
    writer.add("w", DType::f32, Slice::whole({6, 8}).range(rank * 12, rank * 12 + 12),
               bytes_of(counting(12)));
    writer.commit();
  });
  for (size_t rank = 0; rank < errors.size(); ++rank)
    EXPECT_THAT(errors[rank], HasSubstr(rank == 2 ? "rank 2's disk is full" : "another rank")) << rank;
  EXPECT_THAT(names_in_root(), ElementsAre("step-00000002"));
  EXPECT_EQ(first_of(root / "step-00000002"), 1.0f);
}

TEST_F(DamageTest, AFolderThatCannotBeMadeFailsOnAllRanks) {
  std::ofstream(root / "file") << "in the way";
  CheckpointTarget t = target(1);
  t.root = root / "file" / "checkpoints";
  const auto errors = run_ranks(t, 3, [&](CheckpointTarget mine) {
    CheckpointWriter writer(std::move(mine));
    writer.commit();
  });
  EXPECT_THAT(errors, testing::Each(testing::Not("")));
}

}  // namespace
}  // namespace trireme
