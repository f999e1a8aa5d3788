// What the tests of checkpoints share: a folder of their own, tensors whose elements tell where they are, and
// ranks as threads.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <barrier>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "core/checkpoint/checkpoint.h"

namespace trireme {

/// Checkpoints of one tensor `w` [6, 8] and one `b` [5], written whole by one rank, in a folder that goes
/// with the test.
class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() {
    std::filesystem::remove_all(root);
    std::filesystem::create_directories(root);
  }
  ~CheckpointTest() override { std::filesystem::remove_all(root); }

  static std::vector<float> counting(int64_t count, float first = 0.0f) {
    std::vector<float> values(static_cast<size_t>(count));
    std::iota(values.begin(), values.end(), first);
    return values;
  }
  static std::span<const std::byte> bytes_of(const std::vector<float>& values) {
    return std::as_bytes(std::span(values));
  }

  CheckpointTarget target(int64_t step) const {
    CheckpointTarget t;
    t.root = root;
    t.step = step;
    return t;
  }
  /// Elements of `w` and `b` start at `first`.
  std::filesystem::path write(CheckpointTarget t, float first = 0.0f) const {
    CheckpointWriter writer(std::move(t));
    writer.add("w", DType::f32, Slice::whole({6, 8}), bytes_of(counting(48, first)));
    writer.add("b", DType::f32, Slice::whole({5}), bytes_of(counting(5, first)));
    return writer.commit();
  }
  /// The first element of `w`: tells which writer's checkpoint it is.
  static float first_of(const std::filesystem::path& checkpoint) {
    std::vector<float> w(48);
    CheckpointReader reader(checkpoint);
    reader.verify();
    reader.read<float>("w", Slice::whole({6, 8}), w);
    return w[0];
  }

  std::vector<std::string> names_in_root() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(root))
      names.push_back(entry.path().filename());
    std::ranges::sort(names);
    return names;
  }

  static void flip_byte(const std::filesystem::path& file, uint64_t offset) {
    std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
    f.seekg(static_cast<std::streamoff>(offset));
    const int byte = f.get();
    ASSERT_NE(byte, EOF);
    f.seekp(static_cast<std::streamoff>(offset));
    f.put(static_cast<char>(byte ^ 0x10));
  }

  std::filesystem::path root = std::filesystem::temp_directory_path() /
                               ("trireme-checkpoint-" + std::to_string(::getpid()) + "-" +
                                testing::UnitTest::GetInstance()->current_test_info()->name());
};

/// Runs body(target) for each rank in a thread of its own, with an agree() that joins them. Returns each
/// rank's error message, "" when it had none.
inline std::vector<std::string> run_ranks(const CheckpointTarget& base, int ranks,
                                          const std::function<void(CheckpointTarget)>& body) {
  std::vector<std::string> errors(static_cast<size_t>(ranks));
  std::atomic<int> failed{0};
  std::barrier barrier(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      CheckpointTarget t = base;
      t.rank = rank;
      t.ranks = ranks;
      t.agree = [&](bool fine) {
        failed += fine ? 0 : 1;
        barrier.arrive_and_wait();
        const bool all = failed == 0;
        barrier.arrive_and_wait();
        return all;
      };
      try {
        body(t);
      } catch (const Error& error) {
        errors[static_cast<size_t>(rank)] = error.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
  return errors;
}

}  // namespace trireme
