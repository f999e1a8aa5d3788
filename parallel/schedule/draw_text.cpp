// Timelines as rows of characters.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "parallel/schedule/draw.h"
#include "parallel/schedule/first_stages.h"

namespace trireme {
namespace {

constexpr std::string_view kFill = "-==~";  // by ActionKind

std::string label(const Action& a, bool first_stage) {
  const std::string name = to_string(a);
  std::string text = name.substr(0, 1) + name.substr(name.find('.') + 1);
  if (!first_stage) text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
  return text;
}

/// Columns per unit of time: labels have room in the shortest action, unless the whole gets too wide.
double scale_of(const Timeline& t, int columns) {
  double shortest = t.makespan;
  size_t longest_label = 1;
  for (const TimedAction& a : t.actions) {
    if (a.end > a.begin) shortest = std::min(shortest, a.end - a.begin);
    longest_label = std::max(longest_label, label(a.action, true).size());
  }
  return std::min(static_cast<double>(longest_label) / shortest, columns / t.makespan);
}

}  // namespace

std::string draw_text(const Timeline& t, int columns) {
  if (t.makespan <= 0.0) return "";
  const size_t digits = std::to_string(t.num_ranks() - 1).size();
  const int room = std::max(1, columns - static_cast<int>(digits) - 6);  // beside "rank 0 "
  const double scale = scale_of(t, room);
  const auto column = [&](double time) { return static_cast<size_t>(std::lround(time * scale)); };
  std::vector<std::string> rows(t.ranks.size(), std::string(std::max<size_t>(1, column(t.makespan)), '.'));
  const std::vector<int> first_stage = first_stages(t);
  for (const TimedAction& a : t.actions) {
    std::string& row = rows[static_cast<size_t>(a.rank)];
    const size_t begin = std::min(column(a.begin), row.size() - 1);
    const size_t width = std::max<size_t>(1, std::min(column(a.end), row.size()) - begin);
    std::string text = label(a.action, a.action.stage == first_stage[static_cast<size_t>(a.rank)]);
    if (text.size() > width) text.resize(1);
    text.resize(width, kFill[static_cast<size_t>(a.action.kind)]);
    row.replace(begin, width, text);
  }
  std::string drawing;
  for (size_t rank = 0; rank < rows.size(); ++rank)
    drawing += fmt::format("rank {:<{}} {}\n", rank, digits, rows[rank]);
  return drawing;
}

}  // namespace trireme
