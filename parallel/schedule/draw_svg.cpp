// Timelines as an SVG document.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "parallel/schedule/draw.h"
#include "parallel/schedule/first_stages.h"

namespace trireme {
namespace {

// In pixels.
constexpr double kWidth = 1280, kLeft = 64, kRight = 16, kRow = 22, kTitle = 34, kAxis = 26, kLegend = 34;
constexpr double kDigit = 6.5;  // of a label's font

struct KindLook {
  std::string_view name;
  std::array<std::string_view, 2> fill;  // a rank's first stage; its later ones
};

const KindLook& look_of(ActionKind kind) {
  static constexpr std::array<KindLook, 4> kLooks{{{"F forward", {"#9ecae1", "#4292c6"}},
                                                   {"B backward", {"#fdae6b", "#e6762b"}},
                                                   {"I backward, input", {"#fdd49e", "#ef8a62"}},
                                                   {"W backward, weight", {"#c7e9c0", "#74c476"}}}};
  return kLooks[static_cast<size_t>(kind)];
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else
      out += c;
  }
  return out;
}

class SvgWriter {
 public:
  void text(double x, double y, std::string_view anchor, double size, std::string_view content) {
    body_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" font-size=\"{}\">{}</text>\n", x,
                         y, anchor, size, escaped(content));
  }
  void box(double x, double y, double width, double height, std::string_view fill,
           std::string_view tip = "") {
    body_ += fmt::format("<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.1f}\" fill=\"{}\"", x,
                         y, width, height, fill);
    body_ += tip.empty() ? "/>\n" : fmt::format("><title>{}</title></rect>\n", escaped(tip));
  }
  std::string finish(double height) const {
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 "
        "{0:.0f} {1:.0f}\" "
        "font-family=\"sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{2}</svg>\n",
        kWidth, height, body_);
  }

 private:
  std::string body_;
};

/// One panel with its top at `y`; `span` of its time is as wide as the drawing.
void draw_panel(SvgWriter& svg, const Panel& panel, double y, double span) {
  const Timeline& t = panel.timeline;
  const double scale = (kWidth - kLeft - kRight) / span, rows = y + kTitle;
  svg.text(kLeft, y + 22, "start", 14,
           fmt::format("{}: bubble {:.1f} %, peak {:.3g} micro-batches a rank", panel.title,
                       100.0 * t.bubble_share, t.peak_micro_batches()));
  for (int rank = 0; rank < t.num_ranks(); ++rank) {
    svg.text(kLeft - 8, rows + rank * kRow + 15, "end", 12, fmt::format("rank {}", rank));
    svg.box(kLeft, rows + rank * kRow + 1, t.makespan * scale, kRow - 2,
            "#eeeeee");  // idle is what stays visible of it
  }
  const std::vector<int> first_stage = first_stages(t);
  for (const TimedAction& a : t.actions) {
    const double left = kLeft + a.begin * scale, width = (a.end - a.begin) * scale,
                 top = rows + a.rank * kRow + 1;
    const bool later_stage = a.action.stage != first_stage[static_cast<size_t>(a.rank)];
    svg.box(left, top, std::max(0.3, width - 0.6), kRow - 2, look_of(a.action.kind).fill[later_stage ? 1 : 0],
            fmt::format("{}: {:.6g} to {:.6g} {}", to_string(a.action), a.begin, a.end, panel.unit));
    const std::string number = std::to_string(a.action.micro_batch);
    if (width > kDigit * static_cast<double>(number.size()) + 2)
      svg.text(left + width / 2, top + 14, "middle", 11, number);
  }
  const double axis = rows + t.num_ranks() * kRow + 14;
  svg.text(kLeft, axis, "start", 11, "0");
  svg.text(kLeft + t.makespan * scale, axis, "end", 11, fmt::format("{:.6g} {}", t.makespan, panel.unit));
}

/// The kinds that the panels have.
void draw_legend(SvgWriter& svg, std::span<const Panel> panels, double y) {
  std::set<ActionKind> kinds;
  bool later_stages = false;
  for (const Panel& panel : panels) {
    const std::vector<int> first_stage = first_stages(panel.timeline);
    for (const TimedAction& a : panel.timeline.actions) {
      kinds.insert(a.action.kind);
      later_stages |= a.action.stage != first_stage[static_cast<size_t>(a.rank)];
    }
  }
  double x = kLeft;
  for (const ActionKind kind : kinds) {
    const KindLook& look = look_of(kind);
    svg.box(x, y + 8, 14, 14, look.fill[0]);
    if (later_stages) svg.box(x + 15, y + 8, 14, 14, look.fill[1]);
    x += later_stages ? 35 : 20;
    svg.text(x, y + 20, "start", 12, look.name);
    x += 20 + 6.8 * static_cast<double>(look.name.size());
  }
  svg.box(x, y + 8, 14, 14, "#eeeeee");
  svg.text(x + 20, y + 20, "start", 12,
           later_stages ? "idle; darker: later stages of a rank; numbers: micro-batches"
                        : "idle; numbers: micro-batches");
}

}  // namespace

std::string draw_svg(std::span<const Panel> panels) {
  double longest = 0.0;
  bool one_unit = true;
  for (const Panel& panel : panels) {
    longest = std::max(longest, panel.timeline.makespan);
    one_unit &= panel.unit == panels.front().unit;
  }
  SvgWriter svg;
  double y = 0.0;
  for (const Panel& panel : panels) {
    const double span = one_unit ? longest : panel.timeline.makespan;
    draw_panel(svg, panel, y, span > 0.0 ? span : 1.0);
    y += kTitle + panel.timeline.num_ranks() * kRow + kAxis;
  }
  draw_legend(svg, panels, y);
  return svg.finish(y + kLegend);
}

}  // namespace trireme
