// DeviceProfiler: what a device did and when, with the span of the host that queued it.
#pragma once

#include <string>
#include <vector>

#include "core/trace.h"

namespace trireme {

/// One kernel, copy or fill.
struct DeviceActivity {
  std::string name;
  int64_t begin_ns = 0, end_ns = 0;  // of the tracer's clock
  bool is_communication = false;
  std::vector<std::string> spans;  // that were open when it was queued, outermost first
};

/// While started, it is to listen to the tracer's spans.
class DeviceProfiler : public SpanListener {
 public:
  virtual void start() = 0;
  /// After the device's work is done: all that it did since start(), in order of its beginning.
  virtual std::vector<DeviceActivity> stop() = 0;
};

}  // namespace trireme
