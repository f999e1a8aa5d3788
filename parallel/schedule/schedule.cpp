#include "parallel/schedule/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace trireme {
namespace {

constexpr std::string_view kLetters = "FBIW";  // by ActionKind

/// Digits alone, as from_chars would take a prefix.
std::optional<uint16_t> parse_number(std::string_view text) {
  uint16_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

std::string to_string(const Action& action) {
  return fmt::format("{}{}.{}", kLetters[static_cast<size_t>(action.kind)], action.stage, action.micro_batch);
}

std::optional<Action> parse_action(std::string_view text) {
  const size_t dot = text.find('.');
  if (text.empty() || dot == std::string_view::npos) return std::nullopt;
  const size_t kind = kLetters.find(text[0]);
  const auto stage = parse_number(text.substr(1, dot - 1));
  const auto micro_batch = parse_number(text.substr(dot + 1));
  if (kind == std::string_view::npos || !stage || !micro_batch) return std::nullopt;
  return Action{static_cast<ActionKind>(kind), *stage, *micro_batch};
}

std::vector<int> Schedule::stages_of(int rank) const {
  std::vector<int> stages;
  for (int stage = 0; stage < num_stages(); ++stage)
    if (rank_of_stage[static_cast<size_t>(stage)] == rank) stages.push_back(stage);
  return stages;
}

int Schedule::max_stages_of_a_rank() const {
  size_t most = 0;
  for (int rank = 0; rank < num_ranks(); ++rank) most = std::max(most, stages_of(rank).size());
  return static_cast<int>(most);
}

bool Schedule::sends(int stage, Direction direction) const {
  const int to = direction == Direction::forward ? stage + 1 : stage - 1;
  if (to < 0 || to >= num_stages()) return false;
  return rank_of_stage[static_cast<size_t>(to)] != rank_of_stage[static_cast<size_t>(stage)];
}

std::vector<uint16_t> Schedule::channel_order(int stage, Direction direction) const {
  std::vector<uint16_t> order;
  for (const Action& a : ranks[static_cast<size_t>(rank_of_stage[static_cast<size_t>(stage)])])
    if (a.stage == stage && (direction == Direction::forward ? a.is_forward() : a.makes_input_gradient()))
      order.push_back(a.micro_batch);
  return order;
}

}  // namespace trireme
