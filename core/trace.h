// A timeline of one rank: spans of compute and communication, written as Chrome/Perfetto JSON.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

/// Thread-safe. Times are microseconds of the steady clock since `epoch` (the same for all ranks of a machine).
class Tracer {
 public:
  enum class Lane : uint8_t { step, compute, communication, data };

  Tracer(int rank, std::string title);
  /// Spans that end while it is off are dropped; it starts off.
  void set_recording(bool on) { recording_ = on; }
  bool recording() const { return recording_; }
  void add(Lane lane, std::string_view name, int64_t begin_us, int64_t end_us, int64_t bytes = -1);
  static int64_t now_us();
  void write(const std::filesystem::path& file) const;  // IoError when it can't

 private:
  struct Span {
    Lane lane;
    std::string name;
    int64_t begin_us, end_us, bytes;
  };
  int rank_;
  std::string title_;
  std::atomic<bool> recording_ = false;
  mutable std::mutex mutex_;
  std::vector<Span> spans_;
};

/// Adds a span from here to the end of the scope; does nothing when `tracer` is null.
class TraceScope {
 public:
  TraceScope(Tracer* tracer, Tracer::Lane lane, std::string_view name)
      : tracer_(tracer), lane_(lane), name_(name), begin_us_(tracer ? Tracer::now_us() : 0) {}
  ~TraceScope() {
    if (tracer_) tracer_->add(lane_, name_, begin_us_, Tracer::now_us());
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  Tracer* tracer_;
  Tracer::Lane lane_;
  std::string_view name_;
  int64_t begin_us_;
};

}  // namespace trireme
