// RunReport: what a run tells the outside while it goes on: the progress line, metrics.jsonl and TensorBoard's
// event files. Rank 0 has one; the others none.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include "launcher/config.h"
#include "launcher/evaluator.h"
#include "launcher/metrics.h"
#include "launcher/progress.h"
#include "launcher/tensorboard.h"

namespace trireme {

class RunReport {
 public:
  /// `flops_per_token` and `peak_flops` (of all ranks together; 0 when unknown) give the share of the peak.
  RunReport(const RunConfig& run, int64_t resumed_step, double flops_per_token, double peak_flops);

  void step(const StepMetrics& metrics, size_t memory_bytes);
  void validation(int64_t step, const Evaluation& evaluation);
  void note(std::string_view line) { printer_.note(line); }
  /// No step comes after this.
  void end_progress() { printer_.end(); }

 private:
  RunConfig run_;
  double flops_per_token_;
  double peak_flops_;
  MetricsWriter metrics_;
  std::unique_ptr<TensorboardWriter> tensorboard_;
  ProgressPrinter printer_;
  RemainingTime remaining_;
  std::optional<double> valid_loss_;
  int64_t skipped_ = 0;
};

}  // namespace trireme
