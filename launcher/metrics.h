// metrics.jsonl: what happened in each step and validation, one JSON object a line, for programs to read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "launcher/append_file.h"

namespace trireme {

struct StepMetrics {
  int64_t step = 0;
  double loss = 0.0;  // mean over the step's targets, in nats
  double grad_norm = 0.0;
  double lr = 0.0;
  int64_t tokens = 0;  // trained on so far, this step's included
  double tokens_per_s = 0.0;
  double step_ms = 0.0;
  std::optional<double> loss_scale = {};  // where the loss is scaled
  bool skipped = false;  // the update was left out: not finite, or an outlier
};

struct ValidMetrics {
  int64_t step = 0;
  double loss = 0.0;                         // mean in nats a token
  std::optional<double> bits_per_byte = {};  // where the tokenizer is known
  int64_t tokens = 0;                        // looked at
};

class MetricsWriter {
 public:
  /// A run resumed after `resumed_step` keeps the lines up to it and cuts off what comes after; a new run
  /// (`resumed_step` 0) starts the file anew. IoError names the file.
  explicit MetricsWriter(const std::filesystem::path& file, int64_t resumed_step = 0);

  /// Each line is in the file when this returns. Numbers that are not finite are written as null.
  void write(const StepMetrics& metrics);
  void write(const ValidMetrics& metrics);

 private:
  AppendFile file_;
};

}  // namespace trireme
