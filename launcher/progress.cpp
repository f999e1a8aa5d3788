#include "launcher/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdlib>

namespace trireme {
namespace {

constexpr auto kRefreshInterval = std::chrono::milliseconds(100);
constexpr const char* kClearToEnd = "\x1b[K";

/// Columns of the terminal. mpirun's pseudo-terminals don't know: then COLUMNS, which `trireme launch` sets,
/// or a guess.
size_t terminal_width(std::FILE* out) {
  constexpr size_t kGuess = 120;
  winsize size{};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* columns = std::getenv("COLUMNS");
  const int width = columns ? std::atoi(columns) : 0;
  return width > 0 ? static_cast<size_t>(width) : kGuess;
}

}  // namespace

std::string format_count(double count) {
  constexpr std::array kUnits{"", "k", "M", "G", "T"};
  size_t unit = 0;
  while (std::abs(count) >= 999.5 && unit + 1 < kUnits.size()) count /= 1000, ++unit;
  return fmt::format("{:.{}f}{}", count, unit > 0 && std::abs(count) < 99.95 ? 1 : 0, kUnits[unit]);
}

std::string format_bytes(size_t bytes) {
  constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  double count = static_cast<double>(bytes);
  size_t unit = 0;
  while (count >= 1023.5 && unit + 1 < kUnits.size()) count /= 1024, ++unit;
  return fmt::format("{:.{}f} {}", count, unit > 0 && count < 99.95 ? 1 : 0, kUnits[unit]);
}

std::string format_duration(double seconds) {
  const int64_t s = std::llround(seconds);
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 24 * 3600) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d{:02}h", s / (24 * 3600), s / 3600 % 24);
}

std::string format_progress(const Progress& p) {
  std::string line = fmt::format("step {}/{}  loss {:.4f}", p.step, p.steps, p.loss);
  if (p.valid_loss) line += fmt::format("  valid {:.4f}", *p.valid_loss);
  line += fmt::format("  lr {:.2e}  grad {:.3g}", p.lr, p.grad_norm);
  if (p.loss_scale) line += fmt::format("  scale {:g}", *p.loss_scale);
  line += fmt::format("  {} tok/s", format_count(p.tokens_per_s));
  if (p.peak_share) line += fmt::format("  {:.0f}% of peak", 100 * *p.peak_share);
  line += "  " + format_bytes(p.memory_bytes);
  if (p.skipped_steps > 0) line += fmt::format("  {} skipped", p.skipped_steps);
  if (p.left_s) line += "  " + format_duration(*p.left_s) + " left";
  return line;
}

bool output_is_terminal() {
  if (const char* told = std::getenv("TRIREME_TERMINAL")) return std::string_view(told) == "1";
  return isatty(STDOUT_FILENO) && isatty(STDERR_FILENO);
}

ProgressPrinter::ProgressPrinter(std::FILE* out, bool terminal, int64_t log_every)
    : out_(out), terminal_(terminal), log_every_(log_every) {}

ProgressPrinter::~ProgressPrinter() { end(); }

void ProgressPrinter::end() {
  if (!line_.empty()) fmt::print(out_, "\r{}{}\n", line_, kClearToEnd);
  line_.clear();
  std::fflush(out_);
}

void ProgressPrinter::show(const Progress& progress) {
  const bool first_or_last = !started_ || progress.step >= progress.steps;
  started_ = true;
  if (!terminal_) {
    if (!first_or_last && progress.step % log_every_ != 0) return;
    fmt::print(out_, "{}\n", format_progress(progress));
  } else {
    line_ = format_progress(progress).substr(0, terminal_width(out_) - 1);
    const auto now = std::chrono::steady_clock::now();
    if (!first_or_last && now - last_shown_ < kRefreshInterval) return;
    last_shown_ = now;
    fmt::print(out_, "\r{}{}", line_, kClearToEnd);
  }
  std::fflush(out_);
}

void ProgressPrinter::note(std::string_view line) {
  if (line_.empty()) {
    fmt::print(out_, "{}\n", line);
  } else {
    fmt::print(out_, "\r{}{}\n{}{}", line, kClearToEnd, line_, kClearToEnd);
  }
  std::fflush(out_);
}

}  // namespace trireme
