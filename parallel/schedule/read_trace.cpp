#include "parallel/schedule/read_trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"

namespace trireme {
namespace {

/// By name; each action once a step.
using Occurrences = std::map<std::string, std::vector<TimedAction>>;

std::string text_of_trace(const std::filesystem::path& file) {
  try {
    return read_text(file);
  } catch (const IoError& e) {
    throw ConfigError(fmt::format("{}; wanted the trace of each pipeline rank: a run with run.trace: true writes them", e.what()));
  }
}

Occurrences read_actions(const std::filesystem::path& file, int rank) {
  constexpr double kMsPerUs = 1e-3;
  Occurrences of_host, of_device;
  try {
    const nlohmann::json trace = nlohmann::json::parse(text_of_trace(file));
    for (const auto& event : trace.at("traceEvents")) {
      if (event.value("ph", "") != "X") continue;
      const std::string name = event.at("name").get<std::string>();
      const auto action = parse_action(name);
      if (!action) continue;
      const double begin = event.at("ts").get<double>() * kMsPerUs;
      (event.value("cat", "") == "device step" ? of_device : of_host)[name].push_back({rank, *action, begin, begin + event.at("dur").get<double>() * kMsPerUs});
    }
  } catch (const nlohmann::json::exception& e) {
    throw ConfigError(
        fmt::format("{}: not a trace in the Trace Event Format ({}); wanted a trace-RANK.json of a run",
                    file.string(), e.what()));
  }
  Occurrences& found = of_device.empty() ? of_host : of_device;
  for (auto& [name, actions] : found)
    std::sort(actions.begin(), actions.end(),
              [](const TimedAction& a, const TimedAction& b) { return a.begin < b.begin; });
  return found;
}

}  // namespace

Timeline read_trace(std::span<const std::filesystem::path> files, int64_t step) {
  std::vector<TimedAction> actions;
  for (size_t rank = 0; rank < files.size(); ++rank) {
    const std::string file = files[rank].string();
    const Occurrences found = read_actions(files[rank], static_cast<int>(rank));
    if (found.empty())
      throw ConfigError(
          file +
          ": no spans of a pipeline's actions, like F0.3; wanted the trace of a run with parallel.pipeline "
          "of 2 or more");
    for (const auto& [name, steps] : found) {
      const int64_t index = step < 0 ? std::ssize(steps) + step : step;
      if (index < 0 || index >= std::ssize(steps))
        throw ConfigError(
            fmt::format("{}: {} is there {} times, once a recorded step; wanted step {}, counted from 0",
                        file, name, steps.size(), step));
      actions.push_back(steps[static_cast<size_t>(index)]);
    }
  }
  return make_timeline(std::move(actions), static_cast<int>(files.size()));
}

}  // namespace trireme
