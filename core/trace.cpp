#include "core/trace.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/profiler.h"

namespace trireme {
namespace {

constexpr std::string_view kLaneNames[] = {"step",   "compute",              "communication", "data",
                                           "device", "device communication", "device step"};

}  // namespace

Tracer::Tracer(int rank, std::string title) : rank_(rank), title_(std::move(title)) {}

int64_t Tracer::now_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Tracer::add(Lane lane, std::string_view name, int64_t begin_us, int64_t end_us, int64_t bytes, double flop) {
  if (!recording_) return;
  std::lock_guard lock(mutex_);
  spans_.push_back({lane, std::string(name), begin_us, end_us, bytes, flop});
}

void Tracer::add(std::span<const DeviceActivity> activities) {
  std::lock_guard lock(mutex_);
  for (const DeviceActivity& a : activities)
    spans_.push_back({a.is_communication ? Lane::device_communication : Lane::device, a.name, a.begin_ns / 1000, a.end_ns / 1000, -1});
}

std::vector<Tracer::Span> Tracer::spans() const {
  std::lock_guard lock(mutex_);
  return spans_;
}

// The Trace Event Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
void Tracer::write(const std::filesystem::path& file) const {
  std::lock_guard lock(mutex_);
  nlohmann::json events = nlohmann::json::array();
  events.push_back({{"ph", "M"}, {"name", "process_name"}, {"pid", rank_}, {"args", {{"name", title_}}}});
  for (size_t lane = 0; lane < std::size(kLaneNames); ++lane)
    events.push_back(
        {{"ph", "M"}, {"name", "thread_name"}, {"pid", rank_}, {"tid", lane}, {"args", {{"name", kLaneNames[lane]}}}});
  for (const Span& span : spans_) {
    nlohmann::json event{{"ph", "X"},          {"name", span.name},
                         {"cat", kLaneNames[static_cast<size_t>(span.lane)]},
                         {"pid", rank_},       {"tid", static_cast<size_t>(span.lane)},
                         {"ts", span.begin_us}, {"dur", span.end_us - span.begin_us}};
    if (span.bytes >= 0) event["args"] = {{"bytes", span.bytes}};
    events.push_back(std::move(event));
  }
  std::ofstream out(file);
  out << nlohmann::json{{"traceEvents", std::move(events)}, {"displayTimeUnit", "ms"}}.dump() << '\n';
  out.close();
  if (!out) throw IoError(fmt::format("{}: the trace could not be written: is the disk full?", file.string()));
}

}  // namespace trireme
