#include "parallel/schedule/simulate.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "parallel/schedule/validate.h"

namespace trireme {
namespace {

/// When each stage's outputs and input gradients are made, [stage][micro-batch].
class Clock {
 public:
  Clock(const Schedule& schedule, const PassTimes& times)
      : schedule_(schedule), times_(times), free_(schedule.ranks.size(), 0.0) {
    const auto stages = static_cast<size_t>(schedule.num_stages());
    made_.assign(2, std::vector(stages, std::vector(static_cast<size_t>(schedule.micro_batches), 0.0)));
  }

  TimedAction run(int rank, const Action& a) {
    double& free = free_[static_cast<size_t>(rank)];
    const double begin = std::max(free, arrival(a));
    free = begin + times_.of(a);
    if (a.is_forward()) made_[0][a.stage][a.micro_batch] = free;
    if (a.makes_input_gradient()) made_[1][a.stage][a.micro_batch] = free;
    return {rank, a, begin, free};
  }

 private:
  /// Of what comes from another stage; the rank's own order takes care of the rest.
  double arrival(const Action& a) const {
    if (a.is_forward() && a.stage > 0) return arrival(0, a.stage - 1, a);
    if (a.makes_input_gradient() && a.stage + 1 < schedule_.num_stages()) return arrival(1, a.stage + 1, a);
    return 0.0;
  }
  double arrival(size_t what, int from, const Action& to) const {
    const auto sender = static_cast<size_t>(from);
    const bool same_rank = schedule_.rank_of_stage[sender] == schedule_.rank_of_stage[to.stage];
    return made_[what][sender][to.micro_batch] + (same_rank ? 0.0 : times_.transfer);
  }

  const Schedule& schedule_;
  const PassTimes& times_;
  std::vector<double> free_;  // when each rank's last action ended
  std::vector<std::vector<std::vector<double>>> made_;
};

void count_activations(const std::vector<Action>& actions, RankSimulation& rank) {
  int64_t before_input = 0, before_weight = 0;
  for (const Action& a : actions) {
    if (a.is_forward()) ++before_input;
    rank.peak_activations = std::max(rank.peak_activations, before_input + before_weight);
    rank.peak_before_input = std::max(rank.peak_before_input, before_input);
    if (a.makes_input_gradient()) --before_input;
    if (a.kind == ActionKind::backward_input) ++before_weight;
    rank.peak_before_weight = std::max(rank.peak_before_weight, before_weight);
    if (a.kind == ActionKind::backward_weight) --before_weight;
  }
}

}  // namespace

PassTimes PassTimes::uniform(int num_stages, double forward, double backward_input, double backward_weight, double transfer) {
  const auto stages = static_cast<size_t>(num_stages);
  return {std::vector(stages, forward), std::vector(stages, backward_input), std::vector(stages, backward_weight), transfer};
}

double PassTimes::of(const Action& a) const {
  switch (a.kind) {
    case ActionKind::forward: return forward[a.stage];
    case ActionKind::backward: return backward_input[a.stage] + backward_weight[a.stage];
    case ActionKind::backward_input: return backward_input[a.stage];
    case ActionKind::backward_weight: return backward_weight[a.stage];
  }
  TRIREME_ASSERT(false, "an unknown kind of action");
}

int64_t Simulation::peak_activations() const {
  int64_t most = 0;
  for (const RankSimulation& rank : ranks) most = std::max(most, rank.peak_activations);
  return most;
}

Simulation simulate(const Schedule& schedule, const PassTimes& times) {
  const auto stages = static_cast<size_t>(schedule.num_stages());
  TRIREME_ASSERT(times.forward.size() == stages && times.backward_input.size() == stages && times.backward_weight.size() == stages,
                 fmt::format("times of {} stages wanted", stages));
  Clock clock(schedule, times);
  Simulation result;
  std::vector<std::vector<TimedAction>> by_rank(schedule.ranks.size());
  for (const ActionPlace& place : execution_order(schedule)) {
    auto& actions = by_rank[static_cast<size_t>(place.rank)];
    actions.push_back(clock.run(place.rank, schedule.ranks[static_cast<size_t>(place.rank)][place.index]));
    result.makespan = std::max(result.makespan, actions.back().end);
  }
  double busy = 0.0;
  for (size_t rank = 0; rank < by_rank.size(); ++rank) {
    RankSimulation& r = result.ranks.emplace_back();
    for (const TimedAction& a : by_rank[rank]) r.busy += times.of(a.action);
    r.idle_share = result.makespan > 0.0 ? 1.0 - r.busy / result.makespan : 0.0;
    count_activations(schedule.ranks[rank], r);
    busy += r.busy;
    result.actions.insert(result.actions.end(), by_rank[rank].begin(), by_rank[rank].end());
  }
  if (result.makespan > 0.0) result.bubble_share = 1.0 - busy / (static_cast<double>(by_rank.size()) * result.makespan);
  return result;
}

}  // namespace trireme
