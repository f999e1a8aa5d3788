// What the tests of data share: files in a folder of their own, and data sets of known tokens.
#pragma once

#include <gmock/gmock.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/data/dataset.h"
#include "core/data/shard_writer.h"
#include "core/error.h"
#include "tests/temporary_folder.h"

namespace trireme {

inline std::string read_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  EXPECT_TRUE(in.is_open()) << file;
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void write_file(const std::filesystem::path& file, std::string_view content) {
  std::ofstream out(file, std::ios::binary);
  out << content;
  ASSERT_TRUE(out.good()) << file;
}

/// first, first+1, ...
inline std::vector<int32_t> counting(int32_t first, size_t count) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

inline void write_shard(ShardFormat format, const std::filesystem::path& file,
                        std::span<const int32_t> tokens, int64_t vocab = 50257) {
  const auto writer = make_shard_writer(format, file, vocab);
  writer->append(tokens);
  writer->end_document();
  writer->finish();
  writer->publish();
}

inline std::vector<int32_t> read_all(const TokenShard& shard) {
  std::vector<int32_t> tokens(static_cast<size_t>(shard.num_tokens()));
  shard.read(0, tokens);
  return tokens;
}

/// The message of the error of type E that `act` throws; fails the test when it throws none.
template <class E = ConfigError>
std::string error_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

/// A data set in memory.
inline WeightedDataset dataset_of(const std::vector<int32_t>& tokens, double weight = 1.0,
                                  const std::string& name = "memory") {
  const auto held = std::make_shared<const std::vector<int32_t>>(tokens);
  TokenShard shard(name, std::as_bytes(std::span(*held)), TokenType::i32, {{}},
                   static_cast<int64_t>(held->size()));
  shard.owner = held;
  return {std::make_shared<const TokenDataset>(std::vector{shard}), weight, name};
}

}  // namespace trireme
