// The weights that a run ended with, and how near those of two runs are.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/checkpoint/checkpoint.h"

namespace trireme {

using Weights = std::map<std::string, std::vector<float>>;

/// Of the newest checkpoint in the folder of a run.
inline Weights read_weights(const std::filesystem::path& run) {
  CheckpointReader reader(find_checkpoints(run).front());
  Weights weights;
  for (const std::string& name : reader.names()) {
    if (name.starts_with("optim.")) continue;
    std::vector<float>& values = weights[name];
    values.resize(static_cast<size_t>(reader.shape(name).numel()));
    reader.read<float>(name, Slice::whole(reader.shape(name)), values);
  }
  return weights;
}

/// Each array lies within `tolerance` of the expected one, by the norm of the difference.
inline void expect_near(const Weights& found, const Weights& expected, double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, wanted] : expected) {
    ASSERT_TRUE(found.contains(name)) << name;
    const std::vector<float>& values = found.at(name);
    ASSERT_EQ(values.size(), wanted.size()) << name;
    double difference = 0.0, norm = 0.0;
    for (size_t i = 0; i < wanted.size(); ++i) {
      difference += std::pow(static_cast<double>(values[i]) - wanted[i], 2);
      norm += std::pow(static_cast<double>(wanted[i]), 2);
    }
    EXPECT_LT(std::sqrt(difference), tolerance * std::sqrt(norm))
        << name << ": relative difference of the final weights";
  }
}

}  // namespace trireme
