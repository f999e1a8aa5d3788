// The file of algorithms: what is put there is found again, the first one decides, and damage is seen. Needs no GPU.
#include "core/backend/cuda/algorithm_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

namespace trireme::cuda {
namespace {

namespace fs = std::filesystem;

class AlgorithmFileTest : public ::testing::Test {
 protected:
  void SetUp() override { fs::remove_all(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  static AlgorithmChoice choice(uint64_t seed) {
    AlgorithmChoice c;
    for (size_t i = 0; i < c.algo.size(); ++i) c.algo[i] = seed * 0x9e3779b97f4a7c15ull + i;
    c.us = 12.5;
    return c;
  }

  fs::path folder_ = fs::temp_directory_path() / ("trireme-algorithms-" + std::to_string(getpid()));
  fs::path path_ = folder_ / "deep/matmul.json";
};

TEST_F(AlgorithmFileTest, FindsWhatWasAdded) {
  AlgorithmFile file(path_);
  EXPECT_FALSE(file.find("p"));
  AlgorithmChoice apart = choice(2);
  apart.apart = true;
  EXPECT_TRUE(file.add("p", choice(1), {}).same_as(choice(1)));
  EXPECT_TRUE(file.add("q", apart, {}).same_as(apart));
  AlgorithmFile other(path_);
  ASSERT_TRUE(other.find("p") && other.find("q"));
  EXPECT_TRUE(other.find("p")->same_as(choice(1)));
  EXPECT_EQ(other.find("p")->us, 12.5);
  EXPECT_TRUE(other.find("q")->same_as(apart));
  EXPECT_FALSE(other.find("r"));
}

TEST_F(AlgorithmFileTest, TheFirstOneDecidesUnlessItCannotBeUsed) {
  AlgorithmFile mine(path_), theirs(path_);
  theirs.add("p", choice(1), {});
  EXPECT_TRUE(mine.add("p", choice(2), {}).same_as(choice(1)));
  EXPECT_TRUE(mine.add("p", choice(2), choice(1)).same_as(choice(2)));
  EXPECT_TRUE(theirs.find("p")->same_as(choice(2)));
}

TEST_F(AlgorithmFileTest, DamageIsAsIfNothingWereThere) {
  AlgorithmFile file(path_);
  file.add("p", choice(1), {});
  file.add("q", choice(2), {});
  const nlohmann::json good = nlohmann::json::parse(std::ifstream(path_));
  const auto found = [&](const nlohmann::json& contents) {
    std::ofstream(path_) << contents;
    return file.find("p").has_value();
  };
  EXPECT_TRUE(found(good));
  nlohmann::json changed = good;
  changed["p"]["algo"].get_ref<std::string&>()[5] ^= 1;
  EXPECT_FALSE(found(changed));
  changed = good;
  changed["p"]["apart"] = true;
  EXPECT_FALSE(found(changed));
  changed["p"] = good["q"];
  EXPECT_FALSE(found(changed)) << "an algorithm of another product";
  for (const char* key : {"apart", "algo", "check"}) {
    changed = good;
    changed["p"].erase(key);
    EXPECT_FALSE(found(changed)) << key;
    changed["p"][key] = 7;
    EXPECT_FALSE(found(changed)) << key;
  }
  for (const char* text : {"", "{", "null", "[]", "{\"p\": null}", "\xff\xfe"}) {
    std::ofstream(path_) << text;
    EXPECT_FALSE(file.find("p")) << text;
  }
  EXPECT_TRUE(file.add("p", choice(3), {}).same_as(choice(3)));
  EXPECT_TRUE(file.find("p"));
}

TEST_F(AlgorithmFileTest, ManyWritersLoseNothing) {
  constexpr int kWriters = 4, kEach = 8;
  std::vector<std::thread> threads;
  for (int t = 0; t < kWriters; ++t)
    threads.emplace_back([&, t] {
      AlgorithmFile file(path_);
      for (int i = 0; i < kEach; ++i) {
        file.add("own " + std::to_string(t * kEach + i), choice(static_cast<uint64_t>(t)), {});
        file.add("shared " + std::to_string(i), choice(static_cast<uint64_t>(t)), {});
      }
    });
  for (std::thread& t : threads) t.join();
  AlgorithmFile file(path_);
  for (int i = 0; i < kWriters * kEach; ++i) EXPECT_TRUE(file.find("own " + std::to_string(i)));
  for (int i = 0; i < kEach; ++i) EXPECT_TRUE(file.find("shared " + std::to_string(i)));
  for (const auto& entry : fs::directory_iterator(path_.parent_path()))
    EXPECT_TRUE(entry.path() == path_ || entry.path().extension() == ".lock") << entry.path();
}

TEST_F(AlgorithmFileTest, WithoutAPlaceNothingIsKept) {
  AlgorithmFile none(""), forbidden("/proc/no/such/file.json");
  EXPECT_TRUE(none.add("p", choice(1), {}).same_as(choice(1)));
  EXPECT_FALSE(none.find("p"));
  EXPECT_TRUE(forbidden.add("p", choice(1), {}).same_as(choice(1)));
  EXPECT_FALSE(forbidden.find("p"));
  EXPECT_FALSE(none.keeps());
  EXPECT_FALSE(forbidden.keeps());
}

TEST_F(AlgorithmFileTest, WithoutALockItDoesNotTellThatItKeeps) {
  fs::create_directories(path_.string() + ".lock");  // which cannot be opened to be locked
  AlgorithmFile file(path_);
  EXPECT_FALSE(file.keeps());
  file.add("p", choice(1), {});
  EXPECT_TRUE(file.find("p")) << "as long as nobody else writes";
}

TEST_F(AlgorithmFileTest, TellsThatItKeepsWhatItHas) {
  AlgorithmFile file(path_);
  EXPECT_TRUE(file.keeps());
  file.add("p", choice(1), {});
  EXPECT_TRUE(AlgorithmFile(path_).keeps());
  EXPECT_TRUE(file.find("p"));
}

}  // namespace
}  // namespace trireme::cuda
