#include "parallel/schedule/validate.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

#include "core/error.h"

namespace trireme {
namespace {

/// A table [stage][micro-batch].
template <class T>
class PassTable {
 public:
  explicit PassTable(const Schedule& schedule)
      : micro_batches_(static_cast<size_t>(schedule.micro_batches)),
        values_(static_cast<size_t>(schedule.num_stages()) * micro_batches_) {}
  T& operator()(int stage, int64_t micro_batch) {
    return values_[static_cast<size_t>(stage) * micro_batches_ + static_cast<size_t>(micro_batch)];
  }

 private:
  size_t micro_batches_;
  std::vector<T> values_;
};

[[noreturn]] void refuse(int rank, const std::string& what) {
  throw ConfigError(fmt::format("pipeline schedule: rank {}: {}", rank, what));
}

void check_placement(const Schedule& s) {
  for (int stage = 0; stage < s.num_stages(); ++stage)
    if (const int rank = s.rank_of_stage[static_cast<size_t>(stage)]; rank < 0 || rank >= s.num_ranks())
      throw ConfigError(fmt::format("pipeline schedule: stage {} is on rank {}, but there are {} ranks",
                                    stage, rank, s.num_ranks()));
  for (int rank = 0; rank < s.num_ranks(); ++rank) {
    if (s.stages_of(rank).empty()) refuse(rank, "has no stage; give it one, or use fewer ranks");
    for (const Action& a : s.ranks[static_cast<size_t>(rank)]) {
      if (a.stage >= s.num_stages())
        refuse(rank, fmt::format("{}: there are {} stages", to_string(a), s.num_stages()));
      if (a.micro_batch >= s.micro_batches)
        refuse(rank, fmt::format("{}: there are {} micro-batches", to_string(a), s.micro_batches));
      if (const int owner = s.rank_of_stage[a.stage]; owner != rank)
        refuse(rank, fmt::format("{}: stage {} is that of rank {}", to_string(a), a.stage, owner));
    }
  }
}

constexpr unsigned bit(ActionKind kind) {
  return 1U << static_cast<unsigned>(kind);
}

/// What a stage and micro-batch lacks; `present` has bits of kinds.
std::optional<ActionKind> missing_kind(unsigned present) {
  if (!(present & bit(ActionKind::forward))) return ActionKind::forward;
  if (present & bit(ActionKind::backward)) return std::nullopt;
  const bool input = present & bit(ActionKind::backward_input),
             weight = present & bit(ActionKind::backward_weight);
  if (input && weight) return std::nullopt;
  return input ? ActionKind::backward_weight : weight ? ActionKind::backward_input : ActionKind::backward;
}

void check_completeness(const Schedule& s) {
  PassTable<unsigned> present(s);
  for (int rank = 0; rank < s.num_ranks(); ++rank)
    for (const Action& a : s.ranks[static_cast<size_t>(rank)]) {
      unsigned& kinds = present(a.stage, a.micro_batch);
      if (kinds & bit(a.kind)) refuse(rank, to_string(a) + " is there twice");
      kinds |= bit(a.kind);
      const unsigned halves = bit(ActionKind::backward_input) | bit(ActionKind::backward_weight);
      if ((kinds & bit(ActionKind::backward)) && (kinds & halves))
        refuse(rank, fmt::format("{}: stage {} runs micro-batch {} backward both as a whole (B) and in "
                                 "halves (I, W); keep one",
                                 to_string(a), a.stage, a.micro_batch));
    }
  for (int stage = 0; stage < s.num_stages(); ++stage)
    for (int64_t m = 0; m < s.micro_batches; ++m)
      if (const auto kind = missing_kind(present(stage, m)))
        refuse(s.rank_of_stage[static_cast<size_t>(stage)],
               to_string({*kind, static_cast<uint16_t>(stage), static_cast<uint16_t>(m)}) + " is missing");
}

/// The ranks run their actions as far as they can, until all are done or all wait.
class DryRun {
 public:
  explicit DryRun(const Schedule& schedule)
      : schedule_(schedule), done_(schedule), whole_(schedule), next_(schedule.ranks.size(), 0) {
    for (const auto& rank : schedule.ranks)
      for (const Action& a : rank) whole_(a.stage, a.micro_batch) |= a.kind == ActionKind::backward ? 1 : 0;
  }

  std::vector<ActionPlace> run() {
    for (bool moved = true; std::exchange(moved, false);)
      for (int rank = 0; rank < schedule_.num_ranks(); ++rank)
        while (const Action* a = next(rank)) {
          if (waits_for(*a)) break;
          done_(a->stage, a->micro_batch) |= bit(a->kind);
          order_.push_back({rank, next_[static_cast<size_t>(rank)]++});
          moved = true;
        }
    for (int rank = 0; rank < schedule_.num_ranks(); ++rank)
      if (next(rank)) report_deadlock();
    return std::move(order_);
  }

 private:
  const Action* next(int rank) const {
    const auto& actions = schedule_.ranks[static_cast<size_t>(rank)];
    const size_t i = next_[static_cast<size_t>(rank)];
    return i < actions.size() ? &actions[i] : nullptr;
  }

  /// The action, not yet done, that makes the gradient of the stage's input.
  std::optional<Action> input_gradient(int stage, uint16_t micro_batch) {
    const ActionKind kind = whole_(stage, micro_batch) ? ActionKind::backward : ActionKind::backward_input;
    return unless_done({kind, static_cast<uint16_t>(stage), micro_batch});
  }

  std::optional<Action> unless_done(const Action& a) {
    if (done_(a.stage, a.micro_batch) & bit(a.kind)) return std::nullopt;
    return a;
  }

  /// What `a` waits for, if anything.
  std::optional<Action> waits_for(const Action& a) {
    if (a.kind == ActionKind::backward_weight) return input_gradient(a.stage, a.micro_batch);
    if (a.is_forward()) {
      if (a.stage == 0) return std::nullopt;
      return unless_done({ActionKind::forward, static_cast<uint16_t>(a.stage - 1), a.micro_batch});
    }
    if (auto own = unless_done({ActionKind::forward, a.stage, a.micro_batch})) return own;
    return a.stage + 1 < schedule_.num_stages() ? input_gradient(a.stage + 1, a.micro_batch) : std::nullopt;
  }

  [[noreturn]] void report_deadlock() {
    std::string text;
    for (int rank = 0; rank < schedule_.num_ranks(); ++rank)
      if (const Action* a = next(rank)) {
        const Action awaited = *waits_for(*a);
        text += fmt::format("{} rank {}, action {}: {} waits for {} of rank {}", text.empty() ? "" : ";",
                            rank, next_[static_cast<size_t>(rank)] + 1, to_string(*a), to_string(awaited),
                            schedule_.rank_of_stage[awaited.stage]);
      }
    throw ConfigError("pipeline schedule: a deadlock;" + text + "; change the order");
  }

  const Schedule& schedule_;
  PassTable<unsigned> done_;  // bits of kinds
  PassTable<uint8_t> whole_;  // 1: backward is one action
  std::vector<size_t> next_;  // by rank
  std::vector<ActionPlace> order_;
};

}  // namespace

std::vector<ActionPlace> execution_order(const Schedule& schedule) {
  return DryRun(schedule).run();
}

void validate(const Schedule& schedule) {
  if (schedule.micro_batches < 1 || schedule.num_stages() < 1)
    throw ConfigError(
        fmt::format("pipeline schedule: wanted 1 or more stages and micro-batches; got {} and {}",
                    schedule.num_stages(), schedule.micro_batches));
  check_placement(schedule);
  check_completeness(schedule);
  execution_order(schedule);
}

}  // namespace trireme
