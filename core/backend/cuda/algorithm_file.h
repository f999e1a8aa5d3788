// The file that keeps which algorithm was fastest for each matrix product, shared by the ranks of a machine: the first
// one to have timed a product decides for all. Whatever is wrong with the file costs a new timing and nothing else.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace trireme::cuda {

struct AlgorithmChoice {
  bool apart = false;              // the parts of a fused product one after the other
  std::array<uint64_t, 8> algo{};  // cublasLtMatmulAlgo_t
  double us = 0.0;                 // its time, for people who read the file
  bool same_as(const AlgorithmChoice& other) const { return apart == other.apart && algo == other.algo; }
};

/// matmul-<gpu>-<version>.json in trireme's folder under $XDG_CACHE_HOME or ~/.cache; empty where neither is set.
std::filesystem::path default_algorithm_file(const std::string& gpu, size_t version);

class AlgorithmFile {
 public:
  explicit AlgorithmFile(std::filesystem::path path) : path_(std::move(path)) {}  // empty: nothing is kept

  /// As the file has it now.
  std::optional<AlgorithmChoice> find(const std::string& product);
  /// Puts `choice` into the file and returns it; when another process was first, returns theirs, unless that is
  /// `rejected`, which can't be used and is replaced.
  AlgorithmChoice add(const std::string& product, const AlgorithmChoice& choice,
                      const std::optional<AlgorithmChoice>& rejected);
  const std::filesystem::path& path() const { return path_; }
  /// Whether what is added can be read again; tries it.
  bool keeps();

 private:
  using Choices = std::map<std::string, AlgorithmChoice>;
  Choices read() const;
  bool write(const Choices& choices) const;

  std::filesystem::path path_;
  std::mutex mutex_;
  std::optional<bool> keeps_;  // once it was tried
};

}  // namespace trireme::cuda
