#include "parallel/schedule/timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"

namespace trireme {
namespace {

/// Counts a rank's activations, action by action.
class ActivationCount {
 public:
  explicit ActivationCount(RankTimeline& rank) : rank_(rank) {}

  void run(const Action& a) {
    if (a.is_forward()) ++before_input_;
    rank_.peak_activations = std::max(rank_.peak_activations, before_input_ + before_weight_);
    rank_.peak_before_input = std::max(rank_.peak_before_input, before_input_);
    if (a.makes_input_gradient()) --before_input_;
    if (a.kind == ActionKind::backward_input) ++before_weight_;
    rank_.peak_before_weight = std::max(rank_.peak_before_weight, before_weight_);
    if (a.kind == ActionKind::backward_weight) --before_weight_;
  }

 private:
  RankTimeline& rank_;
  int64_t before_input_ = 0, before_weight_ = 0;
};

}  // namespace

int64_t Timeline::peak_activations() const {
  int64_t most = 0;
  for (const RankTimeline& rank : ranks) most = std::max(most, rank.peak_activations);
  return most;
}

double Timeline::peak_micro_batches() const {
  double most = 0.0;
  for (const RankTimeline& rank : ranks)
    if (rank.stages > 0)
      most = std::max(most, static_cast<double>(rank.peak_activations) / static_cast<double>(rank.stages));
  return most;
}

Timeline make_timeline(std::vector<TimedAction> actions, int num_ranks) {
  Timeline t;
  t.ranks.resize(static_cast<size_t>(num_ranks));
  if (actions.empty()) return t;
  std::stable_sort(actions.begin(), actions.end(), [](const TimedAction& a, const TimedAction& b) {
    return a.rank != b.rank ? a.rank < b.rank : a.begin < b.begin;
  });
  double first = actions.front().begin;
  for (const TimedAction& a : actions) first = std::min(first, a.begin);
  std::vector<ActivationCount> counts(t.ranks.begin(), t.ranks.end());
  std::vector<std::set<uint16_t>> stages(t.ranks.size());
  double busy = 0.0;
  for (TimedAction& a : actions) {
    TRIREME_ASSERT(a.rank >= 0 && a.rank < num_ranks, fmt::format("rank {} of {}", a.rank, num_ranks));
    a.begin -= first, a.end -= first;
    t.makespan = std::max(t.makespan, a.end);
    t.ranks[static_cast<size_t>(a.rank)].busy += a.end - a.begin;
    counts[static_cast<size_t>(a.rank)].run(a.action);
    stages[static_cast<size_t>(a.rank)].insert(a.action.stage);
    busy += a.end - a.begin;
  }
  t.actions = std::move(actions);
  for (size_t rank = 0; rank < t.ranks.size(); ++rank) t.ranks[rank].stages = std::ssize(stages[rank]);
  if (t.makespan <= 0.0) return t;
  for (RankTimeline& rank : t.ranks) rank.idle_share = 1.0 - rank.busy / t.makespan;
  t.bubble_share = 1.0 - busy / (num_ranks * t.makespan);
  return t;
}

}  // namespace trireme
