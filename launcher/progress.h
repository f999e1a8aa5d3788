// What a person sees while it trains: one line that is written over on a terminal, a line now and then
// elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

namespace trireme {

struct Progress {
  int64_t step = 0;
  int64_t steps = 0;  // of the whole run
  double loss = 0.0;
  std::optional<double> valid_loss = {};  // the last one
  double lr = 0.0;
  double grad_norm = 0.0;
  std::optional<double> loss_scale = {};  // where the loss is scaled
  double tokens_per_s = 0.0;
  std::optional<double> peak_share = {};  // of the machine's measured peak FLOP/s, 0 to 1
  size_t memory_bytes = 0;
  std::optional<double> left_s = {};
  int64_t skipped_steps = 0;  // shown when there are any
};

/// "step 120/1000  loss 3.2145  valid 3.3012  lr 6.00e-04  grad 0.981  12.3k tok/s  45% of peak  1.2 GiB
/// 3m20s left".
std::string format_progress(const Progress& progress);

std::string format_bytes(size_t bytes);       // "1.2 GiB"
std::string format_count(double count);       // "12.3k"
std::string format_duration(double seconds);  // "3m20s"

/// Whether a person watches standard output. Under mpirun a rank can't tell by itself (it has a
/// pseudo-terminal in any case): `trireme launch` says it in TRIREME_TERMINAL (1 or 0); without that, a
/// rank's standard error is looked at too.
bool output_is_terminal();

/// Time left, from a running mean of step times.
class RemainingTime {
 public:
  void add_step(double step_ms) { mean_ms_ = mean_ms_ ? 0.9 * *mean_ms_ + 0.1 * step_ms : step_ms; }
  std::optional<double> left_s(int64_t remaining_steps) const {
    return mean_ms_ ? std::optional(*mean_ms_ * 1e-3 * static_cast<double>(remaining_steps)) : std::nullopt;
  }

 private:
  std::optional<double> mean_ms_;
};

class ProgressPrinter {
 public:
  /// Elsewhere than on a terminal, prints every `log_every`-th step, the first and the last.
  ProgressPrinter(std::FILE* out, bool terminal, int64_t log_every);
  ~ProgressPrinter();  // shows the newest line and ends it
  ProgressPrinter(const ProgressPrinter&) = delete;
  ProgressPrinter& operator=(const ProgressPrinter&) = delete;

  void show(const Progress& progress);
  /// A line that stays: "checkpoint step-00000100 written".
  void note(std::string_view line);
  /// The line stays as it is; notes follow it.
  void end();

 private:
  std::FILE* out_;
  bool terminal_;
  int64_t log_every_;
  bool started_ = false;
  std::string line_;  // the newest; the terminal's may be a moment older
  std::chrono::steady_clock::time_point last_shown_;
};

}  // namespace trireme
