#include "launcher/profile_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <vector>

#include "parallel/schedule/schedule.h"

namespace trireme {
namespace {

struct Share {
  int64_t ns = 0;
  int64_t calls = 0;
  double flop = 0.0;
};
using Shares = std::map<std::string, Share>;

struct Interval {
  int64_t begin, end;
};

/// Intervals without overlap, in order, that cover the same time.
std::vector<Interval> merged(std::vector<Interval> intervals) {
  std::ranges::sort(intervals, {}, &Interval::begin);
  std::vector<Interval> result;
  for (const Interval& i : intervals) {
    if (result.empty() || i.begin > result.back().end)
      result.push_back(i);
    else
      result.back().end = std::max(result.back().end, i.end);
  }
  return result;
}

int64_t length_of(const std::vector<Interval>& intervals) {
  int64_t sum = 0;
  for (const Interval& i : intervals) sum += i.end - i.begin;
  return sum;
}

/// The columns of FLOP/s; empty ones where there are none.
std::string rates(const Share& share, double peak_flops) {
  const double rate = share.ns > 0 ? share.flop / (static_cast<double>(share.ns) * 1e-9) : 0.0;
  return fmt::format("{:>8}  {:>7}  ", rate > 0 ? fmt::format("{:.{}f}", rate * 1e-12, rate < 1e13 ? 3 : 1) : "",
                     rate > 0 && peak_flops > 0 ? fmt::format("{:.1f}%", 100.0 * rate / peak_flops) : "");
}

std::string shares_table(const std::string& what, const Shares& shares, const ProfiledSteps& steps, size_t most) {
  constexpr size_t kNameWidth = 72;
  std::vector<std::pair<std::string, Share>> rows(shares.begin(), shares.end());
  std::ranges::sort(rows, [](const auto& a, const auto& b) { return a.second.ns > b.second.ns; });
  const double all_ns = static_cast<double>(steps.end_ns - steps.begin_ns), count = static_cast<double>(steps.count);
  const bool has_flop = std::ranges::any_of(rows, [](const auto& row) { return row.second.flop > 0; });
  std::string text = fmt::format("{:>10}  {:>6}  {:>9}  ", "ms a step", "share", "a step");
  if (has_flop) text += fmt::format("{:>8}  {:>7}  ", "TFLOP/s", "of peak");
  text += what + "\n";
  for (size_t i = 0; i < rows.size() && i < most; ++i) {
    const auto& [name, share] = rows[i];
    const auto ns = static_cast<double>(share.ns);
    text += fmt::format("{:>10.3f}  {:>5.1f}%  {:>9.1f}  ", ns / count * 1e-6, 100.0 * ns / all_ns,
                        static_cast<double>(share.calls) / count);
    if (has_flop) text += rates(share, steps.peak_flops);
    text += (name.size() > kNameWidth ? name.substr(0, kNameWidth - 3) + "..." : name) + "\n";
  }
  if (rows.size() > most) text += fmt::format("{:>30}  and {} more\n", "", rows.size() - most);
  return text;
}

std::string head_line(const ProfiledSteps& steps) {
  const double step_s = static_cast<double>(steps.end_ns - steps.begin_ns) * 1e-9 / static_cast<double>(steps.count);
  std::string text = fmt::format("{} step{} of {:.3f} ms", steps.count, steps.count == 1 ? "" : "s", step_s * 1e3);
  if (steps.flops_per_step > 0) text += fmt::format(", {:.1f} TFLOP/s", steps.flops_per_step / step_s * 1e-12);
  if (steps.flops_per_step > 0 && steps.peak_flops > 0)
    text += fmt::format(", {:.1f}% of the peak measured", 100.0 * steps.flops_per_step / step_s / steps.peak_flops);
  return text + "\n";
}

void add(Shares& shares, const std::string& name, int64_t ns, double flop = 0.0) {
  Share& share = shares[name];
  share.ns += ns;
  share.flop += flop;
  ++share.calls;
}

/// What a table calls a phase: all passes of one kind are one.
std::string phase_name(const std::string& span) {
  const auto action = parse_action(span);
  if (!action) return span;
  switch (action->kind) {
    case ActionKind::forward:
      return "forward";
    case ActionKind::backward:
      return "backward";
    case ActionKind::backward_input:
      return "backward (inputs)";
    case ActionKind::backward_weight:
      return "backward (weights)";
  }
  return span;
}

/// "forward: linear"
std::string operation_name(const std::string& phase, const std::string& op) { return phase + ": " + op; }

/// The FLOP of each operation of a phase, by that name: an operation's span lies within the phase's.
std::map<std::string, double> flop_by_operation(std::span<const Tracer::Span> spans) {
  std::vector<const Tracer::Span*> phases;
  for (const Tracer::Span& s : spans)
    if (s.lane == Tracer::Lane::step) phases.push_back(&s);
  std::ranges::sort(phases, {}, &Tracer::Span::begin_us);
  std::map<std::string, double> flop;
  for (const Tracer::Span& s : spans) {
    if (s.lane != Tracer::Lane::compute || s.flop <= 0.0) continue;
    auto phase = std::ranges::upper_bound(phases, s.begin_us, {}, &Tracer::Span::begin_us);
    if (phase == phases.begin() || (*--phase)->end_us < s.end_us) continue;
    flop[operation_name(phase_name((*phase)->name), s.name)] += s.flop;
  }
  return flop;
}

}  // namespace

std::vector<Tracer::Span> device_passes(std::span<const DeviceActivity> activities) {
  std::vector<Tracer::Span> passes;
  for (const DeviceActivity& a : activities) {
    if (a.is_communication || a.spans.empty() || !parse_action(a.spans.front())) continue;
    const int64_t begin_us = a.begin_ns / 1000, end_us = a.end_ns / 1000;
    if (passes.empty() || passes.back().name != a.spans.front())
      passes.push_back({Tracer::Lane::device_step, a.spans.front(), begin_us, end_us, -1});
    passes.back().end_us = std::max(passes.back().end_us, end_us);
  }
  return passes;
}

std::string profile_table(const ProfiledSteps& steps, std::span<const DeviceActivity> activities,
                          std::span<const Tracer::Span> spans) {
  Shares by_op, by_kernel;
  std::vector<Interval> compute, communication, all;
  for (const DeviceActivity& a : activities) {
    const std::string phase = a.spans.empty() ? "outside of a step" : phase_name(a.spans.front());
    const std::string op = a.spans.size() > 1 ? operation_name(phase, a.spans.back()) : phase;
    add(by_op, a.is_communication ? "communication" : op, a.end_ns - a.begin_ns);
    add(by_kernel, a.name, a.end_ns - a.begin_ns);
    (a.is_communication ? communication : compute).push_back({a.begin_ns, a.end_ns});
    all.push_back({a.begin_ns, a.end_ns});
  }
  for (const auto& [op, flop] : flop_by_operation(spans))
    if (const auto row = by_op.find(op); row != by_op.end()) row->second.flop = flop;
  const double count = static_cast<double>(steps.count);
  const int64_t busy = length_of(merged(all)), exposed = busy - length_of(merged(compute));
  const auto ms = [&](int64_t ns) { return static_cast<double>(ns) / count * 1e-6; };
  std::string text = head_line(steps);
  text += fmt::format("the device is idle {:.3f} ms a step; communication {:.3f} ms, of which {:.3f} ms exposed\n\n",
                      ms(steps.end_ns - steps.begin_ns - busy), ms(length_of(merged(communication))), ms(exposed));
  return fmt::format("{}{}\n{}", text, shares_table("operation", by_op, steps, 40), shares_table("kernel", by_kernel, steps, 40));
}

std::string profile_table(const ProfiledSteps& steps, std::span<const Tracer::Span> spans) {
  Shares by_op, by_collective;
  for (const Tracer::Span& s : spans) {
    if (s.begin_us * 1000 < steps.begin_ns) continue;
    const int64_t ns = (s.end_us - s.begin_us) * 1000;
    if (s.lane == Tracer::Lane::compute) add(by_op, s.name, ns, s.flop);
    if (s.lane == Tracer::Lane::communication) add(by_collective, s.name, ns);
  }
  std::string text = fmt::format("{}\n{}", head_line(steps), shares_table("operation", by_op, steps, 40));
  if (!by_collective.empty())
    text += fmt::format("\n{}", shares_table("communication (beside the operations)", by_collective, steps, 20));
  return text;
}

}  // namespace trireme
