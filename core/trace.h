// A timeline of one rank: spans of compute and communication, written as Chrome/Perfetto JSON.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

struct DeviceActivity;

/// Told of each span as it begins and ends, on the thread that computes.
class SpanListener {
 public:
  virtual ~SpanListener() = default;
  virtual void begin_span(std::string_view name) = 0;
  virtual void end_span() = 0;
};

/// Thread-safe. Times are microseconds of the steady clock since `epoch` (the same for all ranks of a machine).
class Tracer {
 public:
  /// The last three are what a device that works on its own did; the others, what the host did or queued.
  enum class Lane : uint8_t { step, compute, communication, data, device, device_communication, device_step };
  struct Span {
    Lane lane;
    std::string name;
    int64_t begin_us, end_us, bytes;
    double flop = 0.0;  // of an operation's pass
  };

  Tracer(int rank, std::string title);
  /// Spans that end while it is off are dropped; it starts off.
  void set_recording(bool on) { recording_ = on; }
  bool recording() const { return recording_; }
  void add(Lane lane, std::string_view name, int64_t begin_us, int64_t end_us, int64_t bytes = -1, double flop = 0.0);
  void add(std::span<const DeviceActivity> activities);
  static int64_t now_us();
  void set_listener(SpanListener* listener) { listener_ = listener; }
  SpanListener* listener() const { return listener_; }
  std::vector<Span> spans() const;  // those recorded so far
  void write(const std::filesystem::path& file) const;  // IoError when it can't

 private:
  int rank_;
  std::string title_;
  std::atomic<bool> recording_ = false;
  mutable std::mutex mutex_;
  std::vector<Span> spans_;
  SpanListener* listener_ = nullptr;
};

/// Adds a span from here to the end of the scope; does nothing when `tracer` is null.
class TraceScope {
 public:
  TraceScope(Tracer* tracer, Tracer::Lane lane, std::string_view name, double flop = 0.0)
      : tracer_(tracer), lane_(lane), name_(name), flop_(flop), begin_us_(tracer ? Tracer::now_us() : 0) {
    if (tracer_ && tracer_->listener()) tracer_->listener()->begin_span(name);
  }
  ~TraceScope() {
    if (!tracer_) return;
    if (tracer_->listener()) tracer_->listener()->end_span();
    tracer_->add(lane_, name_, begin_us_, Tracer::now_us(), -1, flop_);
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  Tracer* tracer_;
  Tracer::Lane lane_;
  std::string_view name_;
  double flop_;
  int64_t begin_us_;
};

}  // namespace trireme
